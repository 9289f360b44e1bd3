"""Files as the store reads and writes them."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rich.filesize import decimal

NOT_REGULAR = "is not a regular file"


class BadFile(ValueError):
    """A file that cannot be what its name says. The message is a sentence without the subject."""


def opened(path: Path, limit: int) -> BinaryIO:
    """A regular file of at most `limit` bytes, open for reading. Follows no link and waits for no pipe.

    Raises:
        BadFile: it is missing, something else, too large, or cannot be read.
        PermissionError: this user may not read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        raise
    except OSError as error:
        reasons = {errno.ENOENT: "is missing", errno.ELOOP: NOT_REGULAR, errno.ENXIO: NOT_REGULAR}
        raise BadFile(reasons.get(error.errno or 0, f"cannot be read ({error.strerror})")) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        os.close(descriptor)
        too_large = f"has {decimal(status.st_size)}, more than the {decimal(limit)} that it can have"
        raise BadFile(too_large if stat.S_ISREG(status.st_mode) else NOT_REGULAR)
    return os.fdopen(descriptor, "rb")


def read(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        BadFile, PermissionError: as `opened` does.
    """
    with opened(path, limit) as file:
        return read_open(file)


def read_open(file: BinaryIO) -> bytes:
    """The content of an open file.

    Raises:
        BadFile: the disk cannot read it.
    """
    try:
        return file.read()
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror})") from error


def sha256(path: Path, limit: int) -> str:
    """The checksum of a regular file of at most `limit` bytes.

    Raises:
        BadFile, PermissionError: as `opened` does.
    """
    with opened(path, limit) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def write(path: Path, content: Callable[[Path], object]) -> None:
    """Writes a new file and syncs it. Its mode and group are those that any new file gets there.

    Some libraries choose a mode of their own, for example safetensors 0600, which would lock out a group.
    """
    path.unlink(missing_ok=True)
    path.touch()
    expected = path.stat()
    content(path)
    found = path.stat()
    if found.st_gid != expected.st_gid:
        os.chown(path, -1, expected.st_gid)
    if found.st_mode != expected.st_mode:
        path.chmod(stat.S_IMODE(expected.st_mode))
    sync(path)


def append(path: Path, text: str) -> None:
    """Appends to a regular file, which need not exist. Does not wait for the reader of a pipe.

    Raises:
        OSError: it cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        file.write(text)


def delete(path: Path) -> None:
    """Deletes whatever has this name; of a link, the link only.

    Raises:
        OSError: it cannot be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def is_regular(path: Path) -> bool:
    """Whether it is a file itself, and not a link to one."""
    return stat.S_ISREG(path.lstat().st_mode)


def sync(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def denied(path: Path) -> str:
    """Why this user may not use a path, and who can change it: mode and owner of the path or of the folder above it."""
    place = next(each for each in (path, *path.absolute().parents) if _visible(each))
    status = place.stat()
    try:
        owner = place.owner()
    except KeyError:  # a number without a name on this machine
        owner = f"user {status.st_uid}"
    mode = f"{stat.filemode(status.st_mode)} ({stat.S_IMODE(status.st_mode):04o})"
    return f"{place} has mode {mode} and belongs to {owner}, who can run `chmod -R g+rwX {place}`"


def cause(error: Exception, path: Path) -> str:
    """Why a path cannot be used: an error of the system or of a library in a few words."""
    return denied(path) if isinstance(error, PermissionError) else getattr(error, "strerror", None) or str(error)


def _visible(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True
