"""Finished stages on disk, and the protocol by which processes agree on which of them trains a stage.

`<root>/stages/<signature>/` exists only when the stage is finished: the complete folder is renamed into place. A
training writes to `<root>/work/<signature>.<token>/` and holds a kernel lock, which is released when its process dies.
The next process that gets the lock renames the folder. This resumes the work, and any late write of the old process
fails. Every file has a checksum, in `SHA256SUMS` or in a checkpoint's name, and is read only if it matches, and only
under the name that the stage's settings give.
This module does not import torch: callers define the content of checkpoints and weights.
"""

import fcntl
import math
import os
import secrets
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from ban.errors import DamagedStage, StageError, UserError
from ban.metrics import Predictions
from ban.store.files import BadFile, cause, delete, denied, read
from ban.store.formats import RESULT, SIGNATURE, Record
from ban.store.index import Index, index_of
from ban.store.result import Result
from ban.store.stage_files import StageFiles
from ban.store.work import CHECKPOINT, Work

Found = TypeVar("Found")
FORMAT = 1
"""Raised when the layout of stores changes."""
DISCARDED = ".discarded"
"""Suffix of a folder that is being removed."""


class Store:
    """The finished stages under one output folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stages, self.works = root / "stages", root / "work"

    @cached_property
    def _index(self) -> Index:
        return index_of(self.root.resolve())

    def folder(self, signature: str) -> Path:
        """The folder of a finished stage, which need not exist yet."""
        return self.stages / signature

    def has(self, signature: str) -> bool:
        """Whether the stage is finished. It may be unreadable or damaged."""
        self.check_format()
        return self._is_finished(signature)

    def _is_finished(self, signature: str) -> bool:
        try:
            (self.folder(signature) / RESULT).lstat()
        except PermissionError:
            return True
        except OSError:
            return False
        return True

    def finished(self) -> list[str]:
        """The signatures of all finished stages.

        Raises:
            UserError: this user may not read the store.
        """
        self.check_format()
        try:
            names = sorted(path.name for path in self.stages.iterdir())
        except PermissionError:
            raise UserError(f"{self.stages} cannot be read: {denied(self.stages)}.") from None
        except OSError:  # nothing was stored yet
            return []
        return [name for name in names if SIGNATURE.fullmatch(name) and self._is_finished(name)]

    def by_prefix(self, prefix: str) -> str:
        """The only signature of a finished stage that begins with these characters.

        Raises:
            UserError: none or several do.
        """
        found = [signature for signature in self.finished() if signature.startswith(prefix)]
        if len(found) != 1:
            several = f"{len(found)} signatures begin" if found else "no signature begins"
            raise UserError(f"{several} with {prefix} in {self.root}: `ban stages` lists them.")
        return found[0]

    @contextmanager
    def _files(self, signature: str) -> Generator[StageFiles]:
        """The files of a finished stage.

        Raises:
            StageError: one cannot be read.
        """
        folder = self.folder(signature)
        try:
            yield StageFiles.of(folder, signature)
        except PermissionError as error:
            raise StageError(f"{folder} cannot be read: {denied(Path(error.filename))}.") from error
        except BadFile as error:
            raise DamagedStage(
                f"{folder}/{error}. Run `ban stages remove {signature}`; the command that needs the stage then trains "
                "it again."
            ) from error

    def result(self, signature: str) -> Result:
        """The result of a finished stage.

        Raises:
            StageError: its files are damaged or another stage's, or cannot be read.
        """
        with self._files(signature) as files:
            return files.result

    def listed(self, signature: str) -> Result:
        """The same, if need be as an earlier command read it: for commands that read all stages.

        Raises:
            StageError: as `result` does.
        """
        return self.remembered("result", [signature], lambda: self.result(signature))

    def remembered(self, what: str, signatures: Sequence[str], read: Callable[[], Found]) -> Found:
        """What `read` finds in the files of finished stages, or what an earlier command found in the same files."""
        index, name = self._index, " ".join([what, *signatures])
        state = index.state(*signatures)
        if (known := index.get(name, state)) is not None:
            return known
        found = read()
        if not isinstance(found, float) or math.isfinite(found):  # JSON has no other numbers
            index.add(name, state, found)
        return found

    def results(self) -> list[Result]:
        """The results of all finished stages."""
        return [self.listed(signature) for signature in self.finished()]

    def description(self, signature: str) -> dict[str, Any]:
        """What a finished stage is, with all its settings.

        Raises:
            StageError: as `result` does.
        """
        with self._files(signature) as files:
            return files.description

    def curves(self, signature: str) -> list[Record]:
        """The records of a finished stage's epochs.

        Raises:
            StageError: as `result` does.
        """
        with self._files(signature) as files:
            return files.curves()

    def predictions(self, signature: str) -> Predictions:
        """A finished stage's predictions for the test set.

        Raises:
            StageError: as `result` does.
        """
        with self._files(signature) as files:
            return files.predictions()

    def file(self, signature: str, name: str) -> Path:
        """A file of a finished stage, after it was checked and the stage's name too.

        Raises:
            StageError: as `result` does.
        """
        with self._files(signature) as files:
            files.check(name)
        return self.folder(signature) / name

    def check(self, signature: str) -> list[str]:
        """Checks all files of a finished stage.

        Returns:
            Their names, that of the checksums excepted.

        Raises:
            StageError: as `result` does.
        """
        with self._files(signature) as files:
            files.check_all()
            return [*files.sums]

    def check_format(self) -> None:
        """Refuses a store in another format.

        Raises:
            UserError: another version of ban wrote it.
        """
        path = self.root / "format"
        try:
            found = read(path, 2**10).decode(errors="replace").strip() if os.path.lexists(path) else ""
        except (BadFile, OSError) as error:
            raise UserError(f"{path}, which names the store's format, cannot be read: {cause(error, path)}.") from error
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

    def entries(self) -> Iterator[Path]:
        """The folders of the store, and the files and folders in them, as far as this user can see them."""
        for top in (self.stages, self.works):
            yield top
            for folder, folders, names in os.walk(top):
                yield from (Path(folder, name) for name in (*folders, *names))

    def begun(self) -> set[str]:
        """The signatures of unfinished trainings that have a checkpoint. Another process may finish them meanwhile."""
        folders = (
            Path(folder)
            for folder, _, names in os.walk(self.works)
            if any(name.startswith(CHECKPOINT) for name in names)
        )
        return {folder.name.partition(".")[0] for folder in folders if folder.suffix != DISCARDED}

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
            raise UserError(f"{folder} cannot be removed: {cause(error, folder)}.") from error

    def _discard(self, folder: Path) -> None:
        """Renames the folder, then deletes it. After an interruption, the next claim deletes the rest."""
        doomed = self.works / f"{folder.name.partition('.')[0]}.{secrets.token_hex(4)}{DISCARDED}"
        folder.rename(doomed)
        delete(doomed)

    def is_claimed(self, signature: str) -> bool:
        """Whether a living process holds the stage's lock, as far as the file system shows it.

        Works without write access to the store.
        """
        try:
            descriptor = os.open(self._lock_file(signature), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:  # no such file yet, or not readable
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two readers do not see each other
        except BlockingIOError:
            return True
        except OSError:  # no locks there
            return False
        finally:
            os.close(descriptor)
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
            raise self._unwritable(error) from error
        try:
            try:
                work = None if self.has(signature) else self._begin(signature)
            except OSError as error:
                raise self._unwritable(error) from error
            yield work
        finally:
            lock.release()

    def _unwritable(self, error: OSError) -> UserError:
        path = Path(error.filename or self.root)
        advice = "mend this, or choose another machine.outputs"
        return UserError(f"{path} cannot be written ({cause(error, path)}): {advice}.")

    def _begin(self, signature: str) -> Work | None:
        mine, target = self.works / f"{signature}.{secrets.token_hex(4)}", self.folder(signature)
        if os.path.lexists(target):  # without a result: its removal was interrupted
            self._discard(target)
        found = [path for path in self.works.glob(f"{signature}.*") if path != self._lock_file(signature)]
        dead = [path for path in found if path.suffix != DISCARDED and stat.S_ISDIR(path.lstat().st_mode)]
        if dead:
            latest = max(dead, key=lambda folder: folder.stat().st_mtime)
            found.remove(latest)
            latest.rename(mine)
        else:
            mine.mkdir()
        for path in found:
            delete(path)
        work = Work(mine, target)
        work.clear_strange_entries()
        if work.is_complete(signature):
            work.finish()
            return None
        return work
