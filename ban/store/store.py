"""Finished stages on disk, and the protocol by which processes agree on which of them trains a stage.

`<root>/stages/<signature>/` exists only when the stage is finished: the complete folder is renamed into place. A
training writes to `<root>/work/<signature>.<token>/` and holds a kernel lock, which is released when its process dies.
The next process that gets the lock renames the folder. This resumes the work, and any late write of the old process
fails. Every file has a checksum, in `SHA256SUMS` or in a checkpoint's name, and is read only if it matches.
This module does not import torch: callers define the content of checkpoints and weights.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ban.errors import UserError
from ban.store.result import Result

FORMAT = 1
"""Raised when the layout of stores changes."""
SUMS = "SHA256SUMS"
"""The checksums of a finished stage's files, as `sha256sum -c` reads them."""
RESULT = "result.json"
"""Written last: a folder that contains it is complete."""
DISCARDED = ".discarded"
"""Suffix of a folder that is being removed."""


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
            write(temporary)
            _sync(temporary)
            temporary.replace(self.folder / final(temporary))
        except Exception as error:  # torch and safetensors raise their own errors when the disk is full
            temporary.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or str(error)
            reason = reason if self.folder.exists() else "another process has taken over this stage"
            raise UserError(f"{self.folder / name} could not be written: {reason}.") from error

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as readable JSON."""
        self.write(name, lambda path: path.write_bytes(_json(value)))

    def write_checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        """Writes the checkpoint of a step, and keeps the one before in case this one gets damaged."""
        self._write("checkpoint", write, lambda written: f"checkpoint-{step:012}-{sha256(written)}")
        for older in self._checkpoints()[2:]:
            older.unlink()

    def latest_checkpoint(self) -> tuple[Path | None, list[str]]:
        """The latest intact checkpoint, and the names of later, damaged ones, which are removed."""
        damaged: list[str] = []
        for path in self._checkpoints():
            if path.name.rpartition("-")[2] == sha256(path):
                return path, damaged
            damaged.append(path.name)
            path.unlink()
        return None, damaged

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*"), reverse=True)

    def publish(self, result: Mapping[str, Any]) -> None:
        """Writes checksums and the result, then renames the folder into place."""
        content = _json(result)
        sums = {path.name: sha256(path) for path in sorted(self.folder.iterdir()) if not _only_for_training(path)}
        sums[RESULT] = hashlib.sha256(content).hexdigest()
        text = "".join(f"{digest}  {name}\n" for name, digest in sums.items() if name != SUMS)
        self.write(SUMS, lambda path: path.write_text(text, encoding="utf-8"))
        self.write(RESULT, lambda path: path.write_bytes(content))
        self.finish()

    @property
    def is_complete(self) -> bool:
        """Whether everything is written and only the renaming is left."""
        return (self.folder / RESULT).exists()

    def finish(self) -> None:
        """Removes checkpoints, and renames the complete folder into place.

        After an interruption, the next claim repeats it.
        """
        _sync(self.folder)
        for path in self.folder.iterdir():
            if _only_for_training(path):
                path.unlink()
        self.folder.rename(self._target)
        _sync(self._target.parent)


def _only_for_training(path: Path) -> bool:
    return path.name.startswith((".", "checkpoint-"))


class Store:
    """The finished stages under one output folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stages, self.works = root / "stages", root / "work"

    def folder(self, signature: str) -> Path:
        """The folder of a finished stage, which need not exist yet."""
        return self.stages / signature

    def has(self, signature: str) -> bool:
        """Whether the stage is finished."""
        self.check_format()
        return (self.folder(signature) / RESULT).exists()

    def result(self, signature: str) -> Result:
        """The result of a finished stage.

        Raises:
            UserError: its result.json is damaged.
        """
        path = self.file(signature, RESULT)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}). {_again(signature)}") from error

    def finished(self) -> list[str]:
        """The signatures of all finished stages."""
        self.check_format()
        return [path.parent.name for path in sorted(self.stages.glob(f"*/{RESULT}"))]

    def results(self) -> list[Result]:
        """The results of all finished stages."""
        return [self.result(signature) for signature in self.finished()]

    def file(self, signature: str, name: str) -> Path:
        """A file of a finished stage, after a comparison with its checksum.

        Raises:
            UserError: it is missing or damaged.
        """
        path, digest = self.folder(signature) / name, self.sums(signature).get(name)
        if digest is None or not path.exists():
            raise UserError(f"{path} is missing. {_again(signature)}")
        if sha256(path) != digest:
            raise UserError(f"{path} is damaged: it does not match its checksum in {SUMS}. {_again(signature)}")
        return path

    def sums(self, signature: str) -> dict[str, str]:
        """File → SHA-256 of a finished stage, when it was published.

        Raises:
            UserError: the list is missing or damaged.
        """
        path = self.folder(signature) / SUMS
        try:
            return read_sums(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}). {_again(signature)}") from error

    def check_format(self) -> None:
        """Refuses a store in another format.

        Raises:
            UserError: another version of ban wrote it.
        """
        path = self.root / "format"
        found = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if found not in ("", f"{FORMAT}"):
            raise UserError(
                f"{self.root} was written by another version of ban (its format is {found[:20]}, this version's is "
                f"{FORMAT}): use that version, or another machine.outputs."
            )

    def begin(self) -> None:
        """Creates the folders.

        Raises:
            OSError: they cannot be created or written.
        """
        for folder in (self.stages, self.works):
            folder.mkdir(parents=True, exist_ok=True)
        path = self.root / "format"
        if not path.exists():
            temporary = path.with_suffix(f".{secrets.token_hex(4)}.part")
            temporary.write_text(f"{FORMAT}\n", encoding="utf-8")
            temporary.rename(path)

    def unfinished(self) -> list[Path]:
        """The folders of unfinished trainings that no process continues now."""
        return [path for path in sorted(self.works.glob("*.*/")) if not self.is_claimed(path.name.partition(".")[0])]

    def remove(self, folder: Path) -> None:
        """Removes a finished stage's or an unfinished training's folder; it disappears in one step.

        Raises:
            UserError: it is being trained, or cannot be removed.
        """
        signature = folder.name.partition(".")[0]
        try:
            self.begin()
            with self._lock(signature).acquire(timeout=0):
                self._discard(folder)
        except Timeout:
            raise UserError(f"{folder} was not removed: another process trains it now.") from None
        except OSError as error:
            raise UserError(f"{folder} cannot be removed ({error.strerror}).") from error

    def _discard(self, folder: Path) -> None:
        """Renames the folder, then deletes it. After an interruption, the next claim deletes the rest."""
        doomed = self.works / f"{folder.name.partition('.')[0]}.{secrets.token_hex(4)}{DISCARDED}"
        folder.rename(doomed)
        shutil.rmtree(doomed)

    def is_claimed(self, signature: str) -> bool:
        """Whether a living process holds the stage's lock, as far as the file system shows it.

        Works without write access to the store.
        """
        try:
            with self._lock_file(signature).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two readers do not see each other
        except BlockingIOError:
            return True
        except OSError:  # no such file yet, not readable, or no locks there
            return False
        return False

    def _lock_file(self, signature: str) -> Path:
        return self.works / f"{signature}.lock"

    def _lock(self, signature: str) -> FileLock:
        # Never deleted: two processes can lock a deleted and a new file. A soft lock would survive its owner.
        return FileLock(self._lock_file(signature), fallback_to_soft=False, preserve_lock_file=True)

    @contextmanager
    def claim(self, signature: str, waiting: Callable[[], None] = lambda: None) -> Generator[Work | None]:
        """The right to train a stage, with the work that a dead process left; None if the stage is finished.

        Waits while another process trains the stage, and calls `waiting` twice a second, which may raise an exception.
        """
        self.check_format()
        lock = self._lock(signature)
        try:
            self.begin()
            while not lock.is_locked:
                try:
                    lock.acquire(timeout=0.5)
                except Timeout:
                    waiting()
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be written ({error.strerror}): choose another machine.outputs."
            ) from error
        try:
            yield None if self.has(signature) else self._begin(signature)
        finally:
            lock.release()

    def _begin(self, signature: str) -> Work | None:
        mine, target = self.works / f"{signature}.{secrets.token_hex(4)}", self.folder(signature)
        found = sorted(self.works.glob(f"{signature}.*/"), key=lambda folder: folder.stat().st_mtime)
        dead = [folder for folder in found if folder.suffix != DISCARDED]
        if target.exists():  # without a result: its removal was interrupted
            self._discard(target)
        if dead:
            dead.pop().rename(mine)
        else:
            mine.mkdir()
        for older in self.works.glob(f"{signature}.*/"):
            if older != mine:
                shutil.rmtree(older)
        work = Work(mine, target)
        if work.is_complete:
            work.finish()
            return None
        return work


def read_sums(text: str) -> dict[str, str]:
    """File → SHA-256, from the lines of a `SHA256SUMS`.

    Raises:
        ValueError: the text has another format.
    """
    sums: dict[str, str] = {}
    for line in text.splitlines():
        digest, gap, name = line.partition("  ")
        if len(digest) != 64 or not gap or not name:
            raise ValueError(f"not a line of checksums: {line[:80]!r}")
        sums[name] = digest
    return sums


def sha256(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _again(signature: str) -> str:
    return f"Run `ban stages remove {signature}`; the command that needs the stage then trains it again."


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
