"""What is wrong with files of a data set that should be on this machine."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ban.errors import UserError


def damaged(folder: Path, checksums: Mapping[str, str]) -> list[str]:
    """The files that are there and have another content: name, size, checksum and the expected one.

    `checksums`: name → MD5 or SHA-256, told apart by their lengths. Missing files are not damaged.
    """
    found: list[str] = []
    for name, expected in checksums.items():
        path = folder / name
        if path.is_file():
            algorithm = "md5" if len(expected) == 32 else "sha256"
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, algorithm).hexdigest()
            if digest != expected:
                found.append(f"{path} ({path.stat().st_size:,} bytes; its {algorithm} is {digest}, not {expected})")
    return found


def refuse_inner_folder(data_dir: Path, inner: str, name: str) -> None:
    """Refuses the folder of the data set itself, where the folder that contains it is wanted.

    Raises:
        UserError: the folder has the file `name`, which belongs into its folder `inner`.
    """
    if (data_dir / name).is_file() and not (data_dir / inner).exists():
        above = data_dir.absolute().parent
        advice = (
            f"set machine.data_dir={above}" if data_dir.absolute().name == inner else f"move them to {data_dir / inner}"
        )
        raise UserError(f"machine.data_dir={data_dir} contains {name} itself, not the folder {inner}: {advice}.")
