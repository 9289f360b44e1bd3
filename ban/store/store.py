"""Finished stages on disk, and the protocol by which processes agree on who trains what.

`<root>/stages/<signature>/` exists only when the stage is finished: it is renamed into place, complete. Work goes on in
`<root>/work/<signature>.<token>/`, under a lock of the kernel that a dying process cannot keep. Whoever gets the lock
renames a dead trainer's folder to a name of its own: that resumes its work and shuts it out in one move.
Every file has a checksum, in `SHA256SUMS` or in a checkpoint's name, and is read only if it still agrees.
No torch here; what a checkpoint or weights look like is the caller's business.
"""

import fcntl
import hashlib
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

FORMAT = 1
"""Raised when a store is laid out in another way than before."""
SUMS = "SHA256SUMS"
"""The checksums of a finished stage's files, as `sha256sum -c` reads them."""
RESULT = "result.json"
"""Written last: a folder that has it is complete."""
DISCARDED = ".discarded"
"""The end of the name of a folder that is being removed."""


class Work:
    """A stage's folder while it is being trained. Only the holder of the stage's lock has one."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self._target = folder, target

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Writes a file completely or not at all: under a temporary name, to the disk, then renamed.

        Raises:
            UserError: the folder is gone because another process has taken over, or the disk is full.
        """
        self._write(name, write, lambda written: name)

    def _write(self, name: str, write: Callable[[Path], object], final: Callable[[Path], str]) -> None:
        temporary = self.folder / f".{name}.part"
        try:
            write(temporary)
            _sync(temporary)
            temporary.replace(self.folder / final(temporary))
        except Exception as error:  # torch and safetensors have errors of their own for a full disk
            temporary.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or str(error)
            reason = reason if self.folder.exists() else "another process has taken over this stage"
            raise UserError(f"{self.folder / name} could not be written: {reason}.") from error

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as readable JSON."""
        self.write(name, lambda path: path.write_bytes(_json(value)))

    def write_checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        """Writes a checkpoint after so many steps; the one before is kept, in case that this one is damaged later."""
        self._write("checkpoint", write, lambda written: f"checkpoint-{step:012}-{sha256(written)}")
        for older in self._checkpoints()[2:]:
            older.unlink()

    def latest_checkpoint(self) -> tuple[Path | None, list[str]]:
        """The latest checkpoint that is whole, and the names of later ones, which were not and are removed."""
        damaged = []
        for path in self._checkpoints():
            if path.name.rpartition("-")[2] == sha256(path):
                return path, damaged
            damaged.append(path.name)
            path.unlink()
        return None, damaged

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*"), reverse=True)

    def publish(self, result: Mapping[str, Any]) -> None:
        """Writes checksums and result, then renames the folder into place."""
        content = _json(result)
        sums = {path.name: sha256(path) for path in sorted(self.folder.iterdir()) if not _only_for_training(path)}
        sums[RESULT] = hashlib.sha256(content).hexdigest()
        text = "".join(f"{digest}  {name}\n" for name, digest in sums.items() if name != SUMS)
        self.write(SUMS, lambda path: path.write_text(text, encoding="utf-8"))
        self.write(RESULT, lambda path: path.write_bytes(content))
        self.finish()

    @property
    def is_complete(self) -> bool:
        """Whether a dead trainer had written everything and only the renaming is left."""
        return (self.folder / RESULT).exists()

    def finish(self) -> None:
        """Removes what only the training needed, and renames the complete folder into place.

        Interrupted, it leaves a complete folder of work, which the next claim finishes.
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
        """Where a finished stage is, or will be."""
        return self.stages / signature

    def has(self, signature: str) -> bool:
        """Whether the stage is finished."""
        self.check_format()
        return (self.folder(signature) / RESULT).exists()

    def result(self, signature: str) -> dict[str, Any]:
        """The result of a finished stage.

        Raises:
            UserError: its result.json is damaged.
        """
        path = self.file(signature, RESULT)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): {_again(signature)}") from error

    def finished(self) -> list[str]:
        """The signatures of all finished stages."""
        self.check_format()
        return [path.parent.name for path in sorted(self.stages.glob(f"*/{RESULT}"))]

    def results(self) -> list[dict[str, Any]]:
        """The results of all finished stages."""
        return [self.result(signature) for signature in self.finished()]

    def file(self, signature: str, name: str) -> Path:
        """A file of a finished stage, whole as it was published.

        Raises:
            UserError: it is missing or damaged.
        """
        path, digest = self.folder(signature) / name, self.sums(signature).get(name)
        if digest is None or not path.exists():
            raise UserError(f"{path} is missing: {_again(signature)}")
        if sha256(path) != digest:
            raise UserError(f"{path} is damaged, its checksum is not that of {SUMS}: {_again(signature)}")
        return path

    def sums(self, signature: str) -> dict[str, str]:
        """File → SHA-256 of a finished stage, as published.

        Raises:
            UserError: the list is missing or damaged.
        """
        path = self.folder(signature) / SUMS
        try:
            return read_sums(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): {_again(signature)}") from error

    def check_format(self) -> None:
        """Refuses a store that this version would misunderstand.

        Raises:
            UserError: a newer version of ban has written it.
        """
        path = self.root / "format"
        found = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if found not in ("", f"{FORMAT}"):
            raise UserError(
                f"{self.root} was written by another version of ban (its format is {found[:20]}, this version's is "
                f"{FORMAT}): use that version, or another machine.outputs."
            )

    def begin(self) -> None:
        """Makes the folders.

        Raises:
            OSError: they cannot be made or written.
        """
        for folder in (self.stages, self.works):
            folder.mkdir(parents=True, exist_ok=True)
        path = self.root / "format"
        if not path.exists():
            temporary = path.with_suffix(f".{secrets.token_hex(4)}.part")
            temporary.write_text(f"{FORMAT}\n", encoding="utf-8")
            temporary.rename(path)

    def unfinished(self) -> list[Path]:
        """The folders of trainings that were begun and that nobody goes on with now."""
        return [path for path in sorted(self.works.glob("*.*/")) if not self.is_claimed(path.name.partition(".")[0])]

    def remove(self, folder: Path) -> None:
        """Removes a finished stage's or an unfinished training's folder; it disappears as a whole.

        Raises:
            UserError: it is being trained, or cannot be removed.
        """
        signature = folder.name.partition(".")[0]
        try:
            self.begin()
            with self._lock(signature).acquire(timeout=0):
                self._discard(folder)
        except Timeout:
            raise UserError(f"{folder} stays: another process trains it now.") from None
        except OSError as error:
            raise UserError(f"{folder} cannot be removed ({error.strerror}).") from error

    def _discard(self, folder: Path) -> None:
        """Out of the way at once, then off the disk; who claims the stage next ends what was interrupted."""
        doomed = self.works / f"{folder.name.partition('.')[0]}.{secrets.token_hex(4)}{DISCARDED}"
        folder.rename(doomed)
        shutil.rmtree(doomed)

    def is_claimed(self, signature: str) -> bool:
        """Whether a living process trains the stage now, as far as the file system tells.

        Nothing is written, so it can be asked by somebody who may only read the store.
        """
        try:
            with self._lock_file(signature).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who only ask do not see each other
        except BlockingIOError:
            return True
        except OSError:  # no such file yet, not to be read, or no locks there
            return False
        return False

    def _lock_file(self, signature: str) -> Path:
        return self.works / f"{signature}.lock"

    def _lock(self, signature: str) -> FileLock:
        # Never deleted: a lock file that is removed can be held twice. A soft lock would survive its owner.
        return FileLock(self._lock_file(signature), fallback_to_soft=False, preserve_lock_file=True)

    @contextmanager
    def claim(self, signature: str, waiting: Callable[[], None] = lambda: None) -> Iterator[Work | None]:
        """The right to train a stage, with the work a dead trainer left; None if it is finished meanwhile.

        Waits as long as another process trains the stage, and calls `waiting` twice a second, which may raise.
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
        if target.exists():  # without a result: somebody removed it; it must not be in the way at the end
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
        ValueError: it is not one.
    """
    sums = {}
    for line in text.splitlines():
        digest, gap, name = line.partition("  ")
        if len(digest) != 64 or not gap or not name:
            raise ValueError(f"not a line of checksums: {line[:80]!r}")
        sums[name] = digest
    return sums


def sha256(path: Path) -> str:
    """A file's checksum."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _again(signature: str) -> str:
    return f"`ban stages remove {signature}` removes the stage, and the command that asked for it trains it again."


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
