"""`ban status`: the unfinished stages, their state, device and progress."""

import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ban.display import console, is_live, show_table
from ban.errors import UserError
from ban.launch.journal import Journal, Note
from ban.launch.slurm import queue
from ban.wording import duration, plural

ORDER = ("running", "waiting", "stopped", "failed")
FOLLOW_SECONDS = 2.0
"""Between two looks at the notes."""
QUEUE_SECONDS = 10.0
"""The same, if SLURM must be asked too."""

Found = tuple[str, str, Note]
"""State, remark and note of a stage."""


def status(journal: Journal) -> None:
    """Prints every unfinished stage. Works on any machine that sees the folder."""
    _show(_found(journal), journal)


def follow(journal: Journal) -> None:
    """Shows the same until nothing runs or waits: on a terminal in place, elsewhere whenever the numbers change."""
    screen = Console(highlight=False)  # beside the one whose output is captured
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        found, counts = _found(journal), ""
        while any(state in ("running", "waiting") for state, _, _ in found):
            if is_live():
                with console.capture() as shown:
                    _show(found, journal)
                live.update(Text.from_ansi(shown.get()), refresh=True)
            elif counts != (counts := _counts(found, journal)):
                console.print(counts)
            time.sleep(QUEUE_SECONDS if any(note.job for _, _, note in found) else FOLLOW_SECONDS)
            found = _found(journal)
    _show(found, journal)


def _found(journal: Journal) -> list[Found]:
    notes = journal.notes()
    jobs = _jobs(notes)
    found = [_actual_state(note, journal, jobs) for note in notes]
    return sorted(found, key=lambda row: (ORDER.index(row[0]), *row[2].place, row[2].name))


def _show(found: Sequence[Found], journal: Journal) -> None:
    rows: list[dict[str, str]] = []
    for state in ORDER:
        rows += [_row(*each) for each in found if each[0] == state and not _only_waits(*each)]
        if state == "waiting":
            families = Counter(
                note.family or note.name for each, remark, note in found if _only_waits(each, remark, note)
            )
            rows += [{"state": state, "stage": f"{name}: {plural(n, 'stage')}"} for name, n in families.items()]
    if rows:
        show_table(rows, spare=("signature", "where", "last update"))
    console.print(_counts(found, journal))
    if any(state in ("stopped", "failed") for state, _, _ in found):
        console.print(f"Run the command of a stopped or failed stage again to resume it. Logs: {journal.logs}")


def _only_waits(state: str, remark: str, note: Note) -> bool:
    """Whether a stage only waits for its turn, so that the number of its family's says all of it."""
    return state == "waiting" and not remark and not note.detail


def _counts(found: Sequence[Found], journal: Journal) -> str:
    counts = ", ".join(f"{count} {state}" for state in ORDER if (count := sum(row[0] == state for row in found)))
    return f"{counts or 'no unfinished stages'}; {len(journal.store.finished())} finished in {journal.store.root}"


def _row(state: str, remark: str, note: Note) -> dict[str, str]:
    return {
        "state": state,
        "stage": note.name,
        "signature": note.signature,
        "where": " ".join(word for word in (note.where, f"of {note.host}" if note.where else "") if word),
        "done": f"{note.at:.0%}",
        "last update": f"{duration(time.time() - note.updated)} ago",
        "remark": remark or note.detail,
    }


def _jobs(notes: Sequence[Note]) -> dict[str, str]:
    """Job → state in SLURM's queue, if a note names a job and this machine has SLURM."""
    if any(note.job for note in notes):
        with suppress(UserError):
            return queue()
    return {}


def _actual_state(note: Note, journal: Journal, jobs: dict[str, str]) -> Found:
    """A note's state and a remark, checked against locks, processes and SLURM: a killed process leaves an old note."""
    if journal.store.is_claimed(note.signature):
        return "running", "", note
    if note.job and note.state != "failed":
        if note.job in jobs:
            state = {"PENDING": "pending", "RUNNING": "starting"}.get(jobs[note.job], jobs[note.job].lower())
            return "waiting", f"SLURM job {note.job}, {state}", note
        return "stopped", "" if note.state == "stopped" else f"SLURM job {note.job} is no longer in the queue", note
    if note.state == "running":
        return "stopped", "its process was killed", note
    if note.state == "waiting" and note.host == socket.gethostname() and not _alive(note.process):
        return "stopped", "its command was killed", note
    return note.state, "", note


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    return True
