"""`ban status`: what runs first, what only waits as numbers, and the cause of a failure."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from helpers import plan, quiet
from rich.console import Console

from ban import display
from ban.commands import status as command
from ban.events import Failed
from ban.launch.journal import Journal, JournalReport, Note
from ban.plan.lineage import union
from ban.store.store import Store

STAGES = union(plan("generations=2", f"seed={seed}") for seed in range(4))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Two teachers run, one failed, and everything else waits."""
    journal = Journal(Store(tmp_path))
    for stage in STAGES:
        journal.write(Note.by_this_process(stage, "waiting"))
    JournalReport(journal, STAGES[0], "cpu", 30.0, quiet)(
        Failed(STAGES[0].signature, "CIFAR-100 is not in /data.\n(machine.download is off)")
    )
    teachers = [stage for stage in STAGES if not stage.generation]
    with journal.store.claim(teachers[1].signature), journal.store.claim(teachers[2].signature):
        yield journal


def shown(width: int, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> str:
    console: Any = type(display.console)(file=StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "console", console)
    monkeypatch.setattr(command, "console", console)
    command.status(journal)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_fits_and_counts_what_waits(width: int, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(width, journal, monkeypatch)
    words = " ".join(text.replace("│", " ").split())
    assert "CIFAR-100 is not" in words and "machine.download" not in words
    assert "2 running, 9 waiting, 1 failed" in text
    rows = [line for line in text.splitlines() if "running" in line or "waiting" in line]
    if width >= 80:
        assert all(len(line) <= width for line in text.splitlines() if "│" in line)
        assert "running" in rows[0] and "running" in rows[1]
        assert "BAN-1, Small-Conv: 4 stages" in text and "BAN-2, Small-Conv: 4 stages" in text


def test_following_ends_when_nothing_runs_or_waits(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finish(_: float) -> None:
        for stage in STAGES:
            journal.remove(stage.signature)

    monkeypatch.setattr(command.time, "sleep", finish)
    command.follow(journal)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("2 running, 9 waiting, 1 failed") and printed[-1].startswith("no unfinished stages")


def test_following_on_a_terminal_shows_one_table_at_a_time(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    screens: list[str] = []
    monkeypatch.setattr(command.Live, "update", lambda self, text, **_: screens.append(text.plain))
    monkeypatch.setattr(command, "is_live", lambda: True)
    monkeypatch.setattr(command, "Console", lambda **_: Console(file=StringIO(), force_terminal=True))
    rounds = iter(range(2))

    def after_two(_: float) -> None:
        if next(rounds, None) is None:
            [journal.remove(stage.signature) for stage in STAGES]

    monkeypatch.setattr(command.time, "sleep", after_two)
    command.follow(journal)
    assert len(screens) == 3 and all(screen.count("2 running") == 1 for screen in screens)


@pytest.mark.parametrize("changes", [{"state": "asleep"}, {"place": "abc"}, {"at": "half"}, {"signature": "0" * 16}])
def test_a_note_of_another_content_is_passed_over(changes: dict[str, object], journal: Journal) -> None:
    path = min(journal.status.glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert journal.note(path.stem) is None
    command.status(journal)
