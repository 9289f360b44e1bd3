"""Downloads: from several places in turn, resumed, left where one is slow. And what is wrong with files that are there.

Does not import torch.
"""

import errno
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

import ban
from ban.errors import UserError
from ban.wording import duration

WINDOW = 10.0
"""Seconds over which the speed of a download is measured, and for which one that may be left can be silent."""
PATIENCE = 60.0
"""Seconds for which one that is the last choice can be silent."""
ATTEMPTS = 10
"""Connections to one address, each of which must bring something new."""
LOG_SECONDS = 30.0
"""Between lines about a download, if the output is not a terminal."""
CHUNK = 2**16


@dataclass(frozen=True)
class Mirror:
    """Files that one address offers."""

    addresses: Mapping[str, str]
    """Name of a file → its URL."""
    folder: Path
    """Where they are written, as NAME.….part."""
    accept: Callable[[Sequence[Path]], str | None]
    """Takes the finished files, in order, if their content is right; returns what is wrong with it otherwise."""

    def part(self, name: str) -> Path:
        """The unfinished file. One mirror does not continue what another began."""
        key = hashlib.sha256(self.addresses[name].encode()).hexdigest()[:8]
        return self.folder / f"{name}.{key}.part"

    @property
    def parts(self) -> list[Path]:
        """All unfinished files."""
        return [self.part(name) for name in self.addresses]

    def remove(self) -> None:
        """Removes what was downloaded."""
        for part in self.parts:
            part.unlink(missing_ok=True)

    def __str__(self) -> str:
        return ", ".join(self.addresses.values())


class _Slow(Exception):
    """A place is slower than it may be."""

    def __init__(self, speed: float) -> None:
        super().__init__(f"{speed / 1000:.0f} kB/s")
        self.speed = speed


def download(title: str, sources: Sequence[Mirror], minimum_speed: float) -> list[str]:
    """Downloads the files of the first source that has the right ones.

    A source that sends less than `minimum_speed` kB/s over `WINDOW` seconds is left for the next one. If none is
    faster, the fastest of them is downloaded to the end. A stopped download is continued by the next one.

    Returns:
        why each source could not be used; empty: the files are there.

    Raises:
        UserError: a file cannot be written.
    """
    trials = _Trials(title, minimum_speed)
    for number, source in enumerate(sources, 1):
        alone = number == len(sources) and not trials.slow
        if trials.succeeds(source, 0.0 if alone else 1000 * minimum_speed):
            break
    else:
        by_speed = sorted(trials.slow, key=lambda each: each[0], reverse=True)
        if not any(trials.succeeds(source, 0.0) for _, source in by_speed):
            return trials.failures or ["no mirror is given"]
    for source in sources:
        source.remove()
    return []


class _Trials:
    """Sources that were tried, and what came of them."""

    def __init__(self, title: str, minimum_speed: float) -> None:
        self.title, self.minimum_speed = title, minimum_speed
        self.failures: list[str] = []
        self.slow: list[tuple[float, Mirror]] = []
        """With their speeds in bytes a second."""

    def succeeds(self, source: Mirror, minimum: float) -> bool:
        """Whether the files of the source are there now; it may be slower than `minimum` bytes a second."""
        say(f"{self.title}: downloading {source}")
        try:
            problem = _try(self.title, source, minimum)
        except _Slow as error:
            self.slow.append((error.speed, source))
            say(f"{self.title}: that is slow ({error}; dataset.minimum_speed={self.minimum_speed:g})")
            return False
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = error.reason if type(error) is urllib.error.URLError else error
            problem = getattr(cause, "strerror", None) or str(cause).rstrip(".") or type(cause).__name__
        if problem is not None:
            self.failures.append(f"{source}: {problem}")
            say(f"{self.title}: that failed: {problem}")
        return problem is None


def _try(title: str, source: Mirror, minimum: float) -> str | None:
    """What is wrong with the source's files; a wrong one that was resumed is downloaded anew once."""
    resumed = any(part.exists() for part in source.parts)
    with _Meter(title) as meter:
        for name, url in source.addresses.items():
            _download(url, source.part(name), minimum, meter)
    problem = source.accept(source.parts)
    if problem:
        source.remove()
        if resumed:
            return _try(title, source, minimum)
    return problem


def _download(url: str, part: Path, minimum: float, meter: "_Meter") -> None:
    """The whole file, in as many connections as it takes while each brings something new."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            _transfer(url, part, minimum, meter)
            return
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException):
            if _size(part) <= before or attempt == ATTEMPTS:
                raise


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(url: str, part: Path, minimum: float, meter: "_Meter") -> None:
    """One connection, which continues the file where it ends if the server can do that.

    Raises:
        _Slow: it sends less than `minimum` bytes a second.
        OSError, http.client.HTTPException: it failed, or ended early.
        UserError: the file cannot be written.
    """
    start, began = _size(part), time.monotonic()
    try:
        reply = _open(url, start, WINDOW if minimum else PATIENCE)
        if reply is None:
            return  # it was complete
        with reply, _unbuffered(part, "ab" if _continues(reply, start) else "wb") as file:
            length, start = reply.headers.get("Content-Length"), file.tell()
            total = None if length is None else start + int(length)
            meter.start(start, total)
            window, received = began, 0
            while chunk := reply.read1(CHUNK):
                _write(chunk, file, part)
                meter.advance(len(chunk))
                received += len(chunk)
                now = time.monotonic()
                if now - window >= WINDOW:
                    if received < minimum * (now - window):
                        raise _Slow(received / (now - window))
                    window, received = now, 0
            if total is not None and file.tell() < total:
                raise ConnectionError(f"ended after {file.tell():,} of {total:,} bytes")
    except TimeoutError:
        if minimum:
            raise _Slow(0.0) from None
        raise


def _open(url: str, start: int, timeout: float) -> Any:
    """The server's reply, which is asked for from byte `start` on; None: there are no more.

    Raises:
        OSError, http.client.HTTPException: there is none.
    """
    headers = {"User-Agent": f"born-again/{ban.__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError("it does not answer") from error
        raise


def _continues(reply: Any, start: int) -> bool:
    """Whether the reply is the rest of the file; otherwise it is the whole file."""
    return reply.status == http.client.PARTIAL_CONTENT and f"{reply.headers.get('Content-Range')}".startswith(
        f"bytes {start}-"
    )


@contextmanager
def _unbuffered(part: Path, mode: str) -> Iterator[Any]:
    """The file, whose content is on the disk after each write, also if a later one fails."""
    with unwritable(part):
        file = part.open(mode, buffering=0)
    with file:
        yield file


def _write(chunk: bytes, file: Any, part: Path) -> None:
    rest = memoryview(chunk)
    with unwritable(part):
        while rest:
            rest = rest[file.write(rest) :]


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Explains errors of writing.

    Raises:
        UserError: the file or folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space, or choose another machine.data_dir" if full else "choose another machine.data_dir"
        raise UserError(f"{path} cannot be written ({error.strerror or error}): {advice}.") from error


def replace(path: Path, content: bytes) -> None:
    """Writes a file, which is there completely or not at all.

    Raises:
        UserError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    with unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def locked(path: Path, title: str) -> Iterator[None]:
    """A lock that one process holds while it downloads; the others say that they wait.

    Raises:
        UserError: the folder of the lock cannot be written.
    """
    with unwritable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, fallback_to_soft=False, preserve_lock_file=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            say(f"{title}: another process is downloading it; waiting")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


# What the user sees


def say(text: str) -> None:
    """A line on the standard error stream."""
    print(text, file=sys.stderr, flush=True)


class _Meter:
    """Shows how far a download is: as a bar on a terminal, elsewhere as a line now and then."""

    def __init__(self, title: str) -> None:
        console = Console(stderr=True)
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self.title = title
        self.progress = Progress(
            TextColumn("{task.description}"),
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=WINDOW,
        )
        self.task = self.progress.add_task(title, total=None)
        self.logged = time.monotonic()

    def __enter__(self) -> "_Meter":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def start(self, completed: int, total: int | None) -> None:
        """A file begins, of which some bytes may be there."""
        self.progress.remove_task(self.task)
        self.task = self.progress.add_task(self.title, total=total, completed=completed)

    def advance(self, size: int) -> None:
        """More bytes have arrived."""
        self.progress.advance(self.task, size)
        if self.progress.disable and time.monotonic() - self.logged >= LOG_SECONDS:
            self.logged, task = time.monotonic(), self.progress.tasks[0]
            total = f" of {decimal(int(task.total))}" if task.total else ""
            left = "" if task.time_remaining is None else f", about {duration(task.time_remaining)} left"
            say(f"{self.title}: {decimal(int(task.completed))}{total}, {(task.speed or 0.0) / 1000:,.0f} kB/s{left}")


# Files that are there


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
