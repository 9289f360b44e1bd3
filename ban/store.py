"""Finished stages on disk, and the protocol by which processes agree on who trains what.

`<root>/stages/<signature>/` exists only when the stage is finished: it is renamed into place, complete. Work goes on in
`<root>/work/<signature>.<token>/`, under a lock of the kernel that a dying process cannot keep. Whoever gets the lock
renames a dead trainer's folder to a name of its own: that resumes its work and shuts it out in one move.
No torch here; what a checkpoint or weights look like is the caller's business.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ban.errors import UserError


class Work:
    """A stage's folder while it is being trained. Only the holder of the stage's lock has one."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self._target = folder, target

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Writes a file completely or not at all: under a temporary name, to the disk, then renamed.

        Raises:
            UserError: the folder is gone because another process has taken over, or the disk is full.
        """
        temporary = self.folder / f".{name}.part"
        try:
            write(temporary)
            _sync(temporary)
            temporary.replace(self.folder / name)
        except Exception as error:  # torch and safetensors have errors of their own for a full disk
            temporary.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or str(error)
            reason = reason if self.folder.exists() else "another process has taken over this stage"
            raise UserError(f"{self.folder / name} could not be written: {reason}.") from error

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as readable JSON."""
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        self.write(name, lambda path: path.write_text(text, encoding="utf-8"))

    def publish(self, result: Mapping[str, Any]) -> None:
        """Writes the result, then renames the folder into place."""
        self.write_json("result.json", result)
        self.finish()

    @property
    def is_complete(self) -> bool:
        """Whether a dead trainer had written everything and only the renaming is left."""
        return (self.folder / "result.json").exists()

    def finish(self) -> None:
        """Renames the complete folder into place; what only the training needed goes last."""
        _sync(self.folder)
        self.folder.rename(self._target)
        _sync(self._target.parent)
        for pattern in ("checkpoint*", ".*.part"):
            for leftover in self._target.glob(pattern):
                leftover.unlink()


class Store:
    """The finished stages under one output folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stages, self.works = root / "stages", root / "work"

    def folder(self, signature: str) -> Path:
        """Where a finished stage is, or will be."""
        return self.stages / signature

    def has(self, signature: str) -> bool:
        """Whether the stage is finished."""
        return (self.folder(signature) / "result.json").exists()

    def result(self, signature: str) -> dict[str, Any]:
        """The result of a finished stage.

        Raises:
            UserError: its result.json cannot be read.
        """
        path = self.folder(signature) / "result.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): remove {path.parent} to train it again.") from error

    def results(self) -> list[dict[str, Any]]:
        """The results of all finished stages."""
        return [self.result(path.parent.name) for path in sorted(self.stages.glob("*/result.json"))]

    def is_claimed(self, signature: str) -> bool:
        """Whether a living process trains the stage now."""
        try:
            with self._lock(signature).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # no such folder yet, or a store that can only be read
            return False

    def _lock(self, signature: str) -> FileLock:
        # Never deleted: a lock file that is removed can be held twice. A soft lock would survive its owner.
        return FileLock(self.works / f"{signature}.lock", fallback_to_soft=False, preserve_lock_file=True)

    @contextmanager
    def claim(self, signature: str, waiting: Callable[[], None] = lambda: None) -> Iterator[Work | None]:
        """The right to train a stage, with the work a dead trainer left; None if it is finished meanwhile.

        Waits as long as another process trains the stage, and calls `waiting` twice a second, which may raise.
        """
        try:
            self.stages.mkdir(parents=True, exist_ok=True)
            self.works.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be written ({error.strerror}): choose another machine.outputs."
            ) from error
        lock = self._lock(signature)
        while True:
            try:
                lock.acquire(timeout=0.5)
                break
            except Timeout:
                waiting()
        try:
            yield None if self.has(signature) else self._begin(signature)
        finally:
            lock.release()

    def _begin(self, signature: str) -> Work | None:
        mine, target = self.works / f"{signature}.{secrets.token_hex(4)}", self.folder(signature)
        dead = sorted(self.works.glob(f"{signature}.*/"), key=lambda folder: folder.stat().st_mtime)
        if target.exists():  # without a result: somebody removed it; it must not be in the way at the end
            target.rename(self.works / f"{signature}.{secrets.token_hex(4)}.incomplete")
        if dead:
            dead.pop().rename(mine)
        else:
            mine.mkdir()
        for older in dead:
            shutil.rmtree(older)
        work = Work(mine, target)
        if work.is_complete:
            work.finish()
            return None
        return work


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
