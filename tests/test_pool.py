"""Processes of a sweep that are killed or suspended from outside."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
from helpers import DIGITS, host, plan

from ban.errors import Interrupted, UserError
from ban.events import Event, Finished, Started
from ban.launch import pool as launch
from ban.launch.devices import Slot
from ban.launch.pool import Pool
from ban.plan.stage import Stage
from ban.settings.compose import compose_settings
from ban.store.store import Store
from ban.training.signals import Signals

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")

LONG = ("method=labels", "recipe.epochs=5000")


@pytest.fixture(autouse=True)
def open_terminal() -> Iterator[None]:
    """SIGHUP is not ignored, also where the tests themselves run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def pool_of(folder: Path, stages: list[Stage], report: Callable[[Event], None], **options: float) -> Pool:
    settings = compose_settings([*DIGITS, f"machine.outputs={folder}"])
    return Pool(stages, host(settings), [Slot("cpu")] * 2, report, **options)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("wakes", [True, False])
def test_a_suspended_stage_does_not_keep_its_sweep(
    wakes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stage,) = plan(*LONG)
    send = launch._Child.signal

    def suspend(event: Event) -> None:
        if isinstance(event, Started):
            os.kill(pool.running[0].process.pid or 0, signal.SIGSTOP)
            signal.raise_signal(signal.SIGHUP)

    if not wakes:
        monkeypatch.setattr(launch, "STOP_SECONDS", 0.5)
        monkeypatch.setattr(
            launch._Child, "signal", lambda child, number: number == signal.SIGCONT or send(child, number)
        )
    pool = pool_of(tmp_path, [stage], suspend)
    with pytest.raises(Interrupted) as raised:
        pool.run()
    assert raised.value.signal_number == signal.SIGHUP
    assert ("did not stop" in pool.failures.get(stage.signature, "")) == (not wakes)
    assert len(list(tmp_path.glob("work/*/checkpoint-*"))) == wakes


@pytest.mark.parametrize("saved", [True, False])
def test_a_stage_that_has_saved_has_not_failed_though_its_trackers_hang(saved: bool, tmp_path: Path) -> None:
    (stage,) = plan(*LONG)
    pool = pool_of(tmp_path, [], lambda event: None)
    with subprocess.Popen(["sleep", "60"]) as process:
        child = launch._Child(stage, Slot("cpu"), process, None, reason=launch.STOPPED, saved=saved)  # pyright: ignore
        pool.running, pool.stop_by = [child], 0.0
        assert pool._stop()
        assert process.wait(10) == -signal.SIGKILL
    assert (child.reason == launch.STOPPED) == saved


def test_a_temporary_folder_with_a_path_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bind() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x" * 200)

    monkeypatch.setattr(forkserver, "ensure_running", bind)
    with pytest.raises(UserError, match=r"too long for a socket .* set TMPDIR to a shorter"):
        pool_of(tmp_path, [], lambda event: None)


def test_a_closed_terminal_is_caught_as_often_as_it_comes_and_nohup_ignores_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Signals().caught() as signals:
        signal.raise_signal(signal.SIGHUP)
        signals.received -= 2
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(Interrupted):
            signals.check()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals().caught() as signals:
            signal.raise_signal(signal.SIGHUP)
            signals.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_hanging_stage_is_ended_and_the_others_finish_though_the_server_that_forked_them_is_killed(
    tmp_path: Path,
) -> None:
    labels = [stage for seed in (1, 2) for stage in plan("method=labels", "recipe.epochs=60", f"seed={seed}")]
    teacher, student = plan("method=ban", "recipe.epochs=60")
    finished: list[str] = []

    def hang(event: Event) -> None:
        if isinstance(event, Started) and event.signature == teacher.signature:
            (process,) = (child.process.pid or 0 for child in pool.running if child.stage == teacher)
            os.kill(process, signal.SIGSTOP)
            os.kill(parent_of(process), signal.SIGKILL)
        if isinstance(event, Finished):
            finished.append(event.signature)

    pool = pool_of(tmp_path, [teacher, *labels, student], hang, stall_timeout=3.0)
    failures = pool.run()
    assert [*failures] == [teacher.signature, student.signature] and "stall_timeout" in failures[teacher.signature]
    assert sorted(finished) == sorted(stage.signature for stage in labels) == Store(tmp_path).finished()
