"""`ban status`: the unfinished stages, their state, device and progress."""

import os
import socket
import time
from contextlib import suppress

from ban.display import console, show_table
from ban.errors import UserError
from ban.launch.journal import Journal, Note
from ban.launch.slurm import queue
from ban.wording import duration

ORDER = ("running", "waiting", "stopped", "failed")


def status(journal: Journal) -> None:
    """Prints every unfinished stage. Works on any machine that sees the folder."""
    jobs = _jobs(journal)
    found = sorted(
        (_actual_state(note, journal, jobs) for note in journal.notes()), key=lambda row: ORDER.index(row[0])
    )
    if found:
        show_table([_row(*each) for each in found])
    counts = ", ".join(f"{count} {state}" for state in ORDER if (count := sum(row[0] == state for row in found)))
    console.print(
        f"{counts or 'no unfinished stages'}; {len(journal.store.finished())} finished in {journal.store.root}"
    )
    if any(state in ("stopped", "failed") for state, _, _ in found):
        console.print(f"Run the command of a stopped or failed stage again to resume it. Logs: {journal.logs}")


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


def _jobs(journal: Journal) -> dict[str, str]:
    """Job → state in SLURM's queue, if a note names a job and this machine has SLURM."""
    if any(note.job for note in journal.notes()):
        with suppress(UserError):
            return queue()
    return {}


def _actual_state(note: Note, journal: Journal, jobs: dict[str, str]) -> tuple[str, str, Note]:
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
