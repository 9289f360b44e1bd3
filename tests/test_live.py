"""The live table of a terminal: families with their results so far, and what runs at the moment."""

from io import StringIO
from pathlib import Path

import pytest
from helpers import plan, publish
from rich.console import Console

from ban import display
from ban.events import Failed, Finished, Running, Started, Waiting
from ban.launch import live
from ban.plan.lineage import union
from ban.report.results import Results
from ban.report.statistics import Interval
from ban.store.store import Store

STAGES = union(plan("generations=2", f"seed={seed}") for seed in range(3))
TEACHERS = [stage for stage in STAGES if not stage.generation]
DETAIL = "train error 2.1 %, label 0.134, epoch 86, 3329 images/s"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def shown(monkeypatch: pytest.MonkeyPatch, table: live.Display, width: int, height: int = 24) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    monkeypatch.setattr(live, "console", console)
    with console.capture() as text:
        console.print(table.render())
    lines = text.get().splitlines()
    assert all(len(line) <= width for line in lines) and len(lines) <= height
    return lines


def under_way(store: Store) -> live.Display:
    """Two teachers finished, one before the command; the third runs."""
    first, second, third = TEACHERS
    publish(store, first, test_error_percent=10.0)
    table = live.Display(STAGES, {stage.signature: 1.0 for stage in STAGES if stage is not first}, store, 30.0)
    table(Started(second.signature, 0.0))
    table(Running(second.signature, 0.9, DETAIL))
    publish(store, second, test_error_percent=12.0)
    table(Finished(second.signature, "test error 12.00 %"))
    table(Started(third.signature, 0.25, "cpu"))
    table(Running(third.signature, 0.5, DETAIL, "cpu"))
    return table


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_has_a_row_for_each_family_and_for_what_runs(
    width: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(monkeypatch, under_way(store), width)
    (teachers,) = (line for line in lines if line.startswith(" Teacher") and "/3" in line)
    streams = [stage.streams for stage in TEACHERS]
    assert "2/3" in teachers and Interval.of([10.0, 12.0], streams[:2]).text() in teachers
    (running,) = (line for line in lines if "50%" in line)
    assert "seed 2" in running
    assert sum("0/3" in line for line in lines) == 2  # BAN-1 and BAN-2
    assert "1 of" not in lines[-1] and "2 of 9 done, 1 running, 6" in lines[-1]
    if width >= 80:
        assert "train error 2.1 %" in running and "waits for Teacher" in "\n".join(lines)


def test_a_finished_family_shows_its_result_and_not_the_last_epoch(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(shown(monkeypatch, under_way(store), 120))
    assert text.count("epoch 86") == 1  # of the one that runs


def test_many_families_and_rows_fit_the_terminal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = union(plan("method=labels", f"recipe.epochs={epochs}", "generations=0") for epochs in range(1, 41))
    table = live.Display(stages, {stage.signature: 1.0 for stage in stages}, store, 30.0)
    for stage in stages[20:]:
        table(Started(stage.signature, 0.0, "cpu"))
    lines = shown(monkeypatch, table, 80)
    assert "more" in "\n".join(lines) and "20 of 40 running" in lines[-1]


def test_failed_stages_and_those_of_another_command_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    table = under_way(store)
    table(Failed(TEACHERS[2].signature, "no memory"))
    table(Waiting(STAGES[-1].signature))
    text = "\n".join(shown(monkeypatch, table, 80))
    assert "1 failed" in text and "trained by another command" in text


def test_before_the_first_training_it_says_what_takes_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    table = live.Display(STAGES, {stage.signature: 1.0 for stage in STAGES}, store, 30.0)
    assert "loading torch and the data" in shown(monkeypatch, table, 80)[-1]


def test_elsewhere_each_result_is_a_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with under_way(store):
        pass
    assert capsys.readouterr().out.count("test error 12.00 %") == 1


def test_streams_of_a_plan_are_those_of_the_results(store: Store) -> None:
    for stage in STAGES:
        publish(store, stage)
    results = Results(store)
    for stage in STAGES:
        assert stage.streams == results.streams(results.by_signature[stage.signature])


@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
def test_a_dumb_terminal_gets_plain_lines(terminal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr(display, "console", Console(file=StringIO(), force_terminal=True))
    assert display.is_live() == (terminal != "dumb")
    display.busy("loading torch")
    display.ready()
    written = display.console.file.getvalue()  # pyright: ignore
    assert "loading torch" in written and ("\x1b" in written) == (terminal != "dumb")
