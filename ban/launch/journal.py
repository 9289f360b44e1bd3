"""What stages leave for others to see: a log each, and a note of where it is trained and how far it is.

Notes lie in `<outputs>/status/`, logs in `<outputs>/logs/`, one file for each signature. They are for people: what is
finished, and who may train what, is only in the store and its locks.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ban.display import details, name_of
from ban.errors import Interrupted, UserError
from ban.events import Event, Report
from ban.plan.stage import Stage
from ban.store.store import Store

State = Literal["waiting", "running", "stopped", "failed"]

NOTE_SECONDS = 5.0
"""Between a running stage's notes."""


@dataclass(frozen=True)
class Note:
    """The latest that is known of a stage that was asked for and is not finished."""

    signature: str
    name: str
    state: State
    host: str
    process: int
    """Of the stage if it runs, else of the command that asked for it."""
    updated: float
    """Seconds since 1970."""
    job: str | None = None
    """SLURM's number."""
    where: str = ""
    at: float = 0.0
    """The finished part of the training."""
    detail: str = ""

    @classmethod
    def by_this_process(cls, stage: Stage, state: State, **fields: Any) -> "Note":
        """A note about a stage that this process asks for or trains."""
        return cls(stage.signature, name_of(stage), state, socket.gethostname(), os.getpid(), time.time(), **fields)


class Journal:
    """The logs and notes of one output folder. Writing them never fails a training."""

    def __init__(self, outputs: Path) -> None:
        self.store = Store(outputs)
        self.status, self.logs = outputs / "status", outputs / "logs"

    def notes(self) -> list[Note]:
        """Of all stages that are not finished."""
        notes = [note for path in sorted(self.status.glob("*.json")) if (note := self.note(path.stem))]
        return [note for note in notes if not self.store.has(note.signature)]

    def note(self, signature: str) -> Note | None:
        """Of one stage, if there is a readable one."""
        try:
            return Note(**json.loads((self.status / f"{signature}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

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

    def tell(self, signature: str, text: str) -> None:
        """Appends a line to the stage's log."""
        with suppress(OSError):
            self.logs.mkdir(parents=True, exist_ok=True)
            with self.log(signature).open("a", encoding="utf-8") as lines:
                lines.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")

    @contextmanager
    def queued(self, stages: Iterable[Stage]) -> Iterator[None]:
        """Notes that this command will train the stages that nobody trains yet and no SLURM job will; until the end."""
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
    """A report that keeps a stage's log and note, and passes everything on. For the process that trains the stage."""

    def __init__(
        self, journal: Journal, stage: Stage, where: str, log_seconds: float, onward: Report, job: str | None = None
    ) -> None:
        self.journal, self.stage, self.where = journal, stage, where
        self.log_seconds, self.onward, self.job = log_seconds, onward, job
        self.noted = self.logged = 0.0
        self.detail = ""

    def __call__(self, event: Event) -> None:
        """Follows one event."""
        values = dict(event.values)
        match event.kind:
            case "started":
                values["where"] = self.where
                begun = f", {values['at']:.0%} done before" if values["at"] else ""
                self.tell(f"started on {self.where} of {socket.gethostname()}, process {os.getpid()}{begun}")
                if "remark" in values:
                    self.tell(str(values["remark"]))
                self._note("running", float(values["at"]))
            case "step" | "epoch":
                self._progress(event)
            case "finished":
                self.tell(str(values["outcome"]))
                self.journal.remove(event.signature)
            case "stopped":
                self.tell("stopped; a checkpoint is saved")
                self._note("stopped", float(values["at"]))
            case "failed":
                self.tell(f"failed: {values['reason']}")
                self._note("failed", 0.0, str(values["reason"]).splitlines()[-1])
            case "waiting":
                pass  # the note is that of the process that trains it
        self.onward(event._replace(values=values))

    def _progress(self, event: Event) -> None:
        now, at = time.monotonic(), float(event.values["at"])
        if event.kind == "epoch" or not self.detail:
            self.detail = details(event.values)
        if now - self.noted >= NOTE_SECONDS:
            self._note("running", at)
        if now - self.logged >= self.log_seconds:
            self.tell(f"{at:4.0%} {self.detail}")
            self.logged = now

    def tell(self, text: str) -> None:
        """Adds a line to the log."""
        self.journal.tell(self.stage.signature, text)

    def _note(self, state: State, at: float, detail: str | None = None) -> None:
        fields = {"job": self.job, "where": self.where, "at": at, "detail": detail or self.detail}
        self.journal.write(Note.by_this_process(self.stage, state, **fields))
        self.noted = time.monotonic()


@contextmanager
def report_failures(report: Report, stage: Stage) -> Iterator[None]:
    """Reports whatever goes wrong with a stage, before it goes further up."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        report(Event(stage.signature, "failed", {"reason": reason}))
        raise
