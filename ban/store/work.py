"""The folder of a stage while it is trained."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ban.errors import UserError
from ban.store import files
from ban.store.files import BadFile
from ban.store.formats import CURVES, FILE, RESULT, SUMS, dump_curves, dump_json
from ban.store.stage_files import StageFiles

NO_LIMIT = 2**62
CHECKPOINT = "checkpoint-"
"""How the names of checkpoints begin."""


class Work:
    """The folder of a stage while it is trained. Only the holder of the stage's lock has one."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self._target = folder, target

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Writes a file completely or not at all: under a temporary name, synced to the disk, then renamed.

        Raises:
            UserError: another process has taken over the stage, or the disk is full.
        """
        self._write(name, write, lambda written: name)

    def _write(self, name: str, write: Callable[[Path], object], final: Callable[[Path], str]) -> None:
        temporary = self.folder / f".{name}.part"
        try:
            files.write(temporary, write)
            temporary.replace(self.folder / final(temporary))
        except Exception as error:  # torch and safetensors raise their own errors when the disk is full
            temporary.unlink(missing_ok=True)
            reason = "another process has taken over this stage"
            if self.folder.exists():
                reason = files.cause(error, self.folder)
            raise UserError(f"{self.folder / name} could not be written: {reason}.") from error

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as readable JSON.

        Raises:
            UserError: as `write` does, or a number is not finite.
        """
        self.write(name, lambda path: path.write_bytes(dump_json(value)))

    def write_curves(self, records: Sequence[Mapping[str, float]]) -> None:
        """Writes the records of the finished epochs."""
        self.write(CURVES, lambda path: path.write_bytes(dump_curves(records)))

    def write_checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        """Writes the checkpoint of a step, and keeps the one before in case this one gets damaged."""
        self._write("checkpoint", write, lambda written: f"{CHECKPOINT}{step:012}-{files.sha256(written, NO_LIMIT)}")
        for older in self._checkpoints()[2:]:
            files.delete(older)

    def latest_checkpoint(self, limit: int = NO_LIMIT) -> tuple[Path | None, list[str]]:
        """The latest intact checkpoint, and the names of later, damaged ones, which are removed.

        `limit`: the largest size in bytes that a checkpoint of this training can have.
        """
        damaged: list[str] = []
        for path in self._checkpoints():
            try:
                if path.name.rpartition("-")[2] == files.sha256(path, limit):
                    return path, damaged
            except BadFile:
                pass
            damaged.append(path.name)
            files.delete(path)
        return None, damaged

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob(f"{CHECKPOINT}*"), reverse=True)

    def clear_strange_entries(self) -> None:
        """Deletes what no training writes: anything but regular files."""
        for path in [*self.folder.iterdir()]:
            if not files.is_regular(path):
                files.delete(path)

    def publish(self, result: Mapping[str, Any]) -> None:
        """Writes checksums and the result, then renames the folder into place.

        Raises:
            UserError: as `write` does, or a number of the result is not finite.
        """
        try:
            content = dump_json(result)
        except ValueError as error:
            raise UserError(f"{self.folder / RESULT} could not be written: {error}.") from error
        names = sorted(path.name for path in self.folder.iterdir() if FILE.fullmatch(path.name))
        sums = {name: files.sha256(self.folder / name, NO_LIMIT) for name in names if name not in (SUMS, RESULT)}
        sums[RESULT] = hashlib.sha256(content).hexdigest()
        text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
        self.write(SUMS, lambda path: path.write_text(text, encoding="utf-8"))
        self.write(RESULT, lambda path: path.write_bytes(content))
        self.finish()

    def is_complete(self, signature: str) -> bool:
        """Whether every file is written and intact, and only the renaming is left."""
        if not (self.folder / RESULT).exists():
            return False
        try:
            StageFiles.of(self.folder, signature).check_all()
        except BadFile:
            (self.folder / RESULT).unlink()
            return False
        return True

    def finish(self) -> None:
        """Removes checkpoints, and renames the complete folder into place.

        After an interruption, the next claim repeats it.
        """
        files.sync(self.folder)
        for path in [*self.folder.iterdir()]:
            if path.name.startswith((".", CHECKPOINT)):
                files.delete(path)
        self.folder.rename(self._target)
        files.sync(self._target.parent)
