"""A log and a status note for each stage.

Notes are in `<outputs>/status/`, logs in `<outputs>/logs/`, one file for each signature. They are for people only: the
store and its locks decide which stages are finished, and which process may train a stage.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ban.errors import Interrupted, UserError
from ban.events import Event, Failed, Finished, Noted, Report, Running, Started, Stopped, Waiting, Warned
from ban.plan.contrast import name_in_line, name_of
from ban.plan.stage import Stage
from ban.store.files import BadFile, append, read
from ban.store.formats import read_json
from ban.store.store import Store

State = Literal["waiting", "running", "stopped", "failed"]

NOTE_SECONDS = 5.0
"""Seconds between a running stage's notes."""


@dataclass(frozen=True)
class Note:
    """The latest status of an unfinished stage."""

    signature: str
    name: str
    state: State
    host: str
    process: int
    """Process number of the training, or of the command that will start it."""
    updated: float
    """Seconds since 1970."""
    job: str | None = None
    """SLURM's job number."""
    where: str = ""
    """The device."""
    at: float = 0.0
    """The finished fraction of the training."""
    detail: str = ""
    family: str = ""
    """The name without a seed; empty in notes of version 0.2.0."""
    place: Sequence[int] = (0, 0, 0)
    """Generation, replica and seed."""

    @classmethod
    def by_this_process(cls, stage: Stage, state: State, **fields: Any) -> "Note":
        """A note about a stage that this process trains or will train."""
        fields |= {"family": name_in_line(stage.label, stage.model.title, None)}
        fields |= {"place": (stage.generation, stage.replica, stage.seed)}
        return cls(stage.signature, name_of(stage), state, socket.gethostname(), os.getpid(), time.time(), **fields)


@cache
def _notes() -> TypeAdapter[Note]:
    return TypeAdapter(Note)


class Journal:
    """The logs and notes beside a store. Failing to write them never fails a training."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.status, self.logs = store.root / "status", store.root / "logs"

    def notes(self) -> list[Note]:
        """The notes of all unfinished stages."""
        notes = [note for path in sorted(self.status.glob("*.json")) if (note := self.note(path.stem))]
        return [note for note in notes if not self.store.has(note.signature)]

    def note(self, signature: str) -> Note | None:
        """The note of one stage; None if there is no readable one."""
        try:
            note = _notes().validate_python(read_json(read(self.status / f"{signature}.json", 2**16)))
        except (OSError, BadFile, ValidationError):
            return None
        return note if note.signature == signature else None

    def write(self, note: Note) -> None:
        """Replaces the stage's note."""
        path = self.status / f"{note.signature}.json"
        temporary = path.with_suffix(f".{os.getpid()}.part")
        with suppress(OSError):
            self.status.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(note), ensure_ascii=False) + "\n", encoding="utf-8")
            temporary.replace(path)

    def remove(self, signature: str) -> None:
        """Removes the stage's note, if there is one."""
        with suppress(OSError):
            (self.status / f"{signature}.json").unlink()

    def log(self, signature: str) -> Path:
        """The stage's log."""
        return self.logs / f"{signature}.log"

    def append(self, signature: str, text: str) -> None:
        """Appends a line to the stage's log."""
        with suppress(OSError):
            self.logs.mkdir(parents=True, exist_ok=True)
            append(self.log(signature), f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")

    @contextmanager
    def queued(self, stages: Iterable[Stage]) -> Iterator[None]:
        """Within the context, notes say that this command will train the stages, unless another process or job does."""
        for stage in stages:
            before = self.note(stage.signature)
            queued = before is not None and before.job is not None and before.state != "failed"
            if not queued and not self.store.is_claimed(stage.signature):
                self.write(Note.by_this_process(stage, "waiting"))
        try:
            yield
        finally:
            for note in self.notes():
                mine = note.process == os.getpid() and note.host == socket.gethostname()
                if note.state == "waiting" and mine and not note.job:
                    self.remove(note.signature)


class JournalReport:
    """Keeps the log and the note of a stage that this process trains, and passes all events on."""

    def __init__(
        self, journal: Journal, stage: Stage, device: str, log_seconds: float, onward: Report, job: str | None = None
    ) -> None:
        self.journal, self.stage, self.device = journal, stage, device
        self.log_seconds, self.onward, self.job = log_seconds, onward, job
        self.noted = self.logged = 0.0
        self.detail = ""

    def __call__(self, event: Event) -> None:
        """Records one event."""
        match event:
            case Started(_, fraction):
                resumed = f", resumed at {fraction:.0%}" if fraction else ""
                self.log(f"started on {self.device} of {socket.gethostname()}, process {os.getpid()}{resumed}")
                self._note("running", fraction)
                event = event._replace(device=self.device)
            case Warned(_, text) | Noted(_, text):
                self.log(text)
            case Running(_, fraction, detail):
                self._progress(fraction, detail)
            case Finished(signature, outcome):
                self.log(outcome)
                self.journal.remove(signature)
            case Stopped(_, fraction):
                self.log("stopped; a checkpoint is saved")
                self._note("stopped", fraction)
            case Failed(_, reason):
                self.log(f"failed: {reason}")
                self.detail = _cause(reason)
                self._note("failed", 0.0)
            case Waiting():
                pass  # the process that trains the stage keeps the note
        self.onward(event)

    def _progress(self, fraction: float, detail: str) -> None:
        now, self.detail = time.monotonic(), detail
        if now - self.noted >= NOTE_SECONDS:
            self._note("running", fraction)
        if now - self.logged >= self.log_seconds:
            self.log(f"{fraction:4.0%} {detail}")
            self.logged = now

    def log(self, text: str) -> None:
        """Adds a line to the stage's log."""
        self.journal.append(self.stage.signature, text)

    def _note(self, state: State, fraction: float) -> None:
        fields = {"job": self.job, "where": self.device, "at": fraction, "detail": self.detail}
        self.journal.write(Note.by_this_process(self.stage, state, **fields))
        self.noted = time.monotonic()


def _cause(reason: str) -> str:
    """The line of a failure's reason that says most: the first, or the last of a traceback."""
    lines = reason.strip().splitlines() or [""]
    return lines[-1 if lines[0].startswith("Traceback") else 0]


@contextmanager
def report_failures(report: Report, stage: Stage) -> Iterator[None]:
    """Reports an exception as the stage's failure before it propagates."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        report(
            Failed(stage.signature, str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        )
        raise
