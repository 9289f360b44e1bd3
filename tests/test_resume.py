"""Real processes, really killed: they go on, and end where an uninterrupted run ends, bit for bit."""

import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import DIGITS, KINDS, Say, ban, curves, files, host, plan, start, train_undisturbed, wait_for, weights

from ban.events import Event, Started
from ban.launch.devices import Slot
from ban.launch.journal import Journal
from ban.launch.pool import Pool
from ban.settings.compose import compose_settings
from ban.store.store import Store

pytestmark = pytest.mark.slow

# Many steps, with a checkpoint after every step.
OPTIONS = {
    "images": ("method=dkpp", "recipe.epochs=80", "machine.checkpoint_seconds=0"),
    "language": ("method=ban_l", "recipe.epochs=8", "machine.checkpoint_seconds=0"),
    "tabular": (
        *("method=ban", "+method.data.munge={multiplier: 1, swap_probability: 0.5, local_variance: 1.0}"),
        *("recipe.epochs=60", "machine.checkpoint_seconds=0"),
    ),
}
LONG = (*DIGITS, *OPTIONS["images"])


@pytest.fixture(scope="module")
def folders_of_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def folder(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(f"undisturbed_{kind}")
        train_undisturbed(folder, *KINDS[kind], *OPTIONS[kind])
        return folder

    return folder


def weights_of(folder: Path, kind: str) -> dict[str, bytes]:
    return {stage.signature: weights(folder / "outputs", stage.signature) for stage in plan(*OPTIONS[kind], kind=kind)}


@pytest.fixture(scope="module")
def undisturbed(folders_of_undisturbed: Callable[[str], Path]) -> dict[str, bytes]:
    return weights_of(folders_of_undisturbed("images"), "images")


LONGER = (*DIGITS, "method=labels", "recipe.epochs=600", "machine.checkpoint_seconds=1000")
"""Seconds without a checkpoint: only a signal saves."""


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return train_undisturbed(tmp_path_factory.mktemp("longer"), *LONGER)


def untimed_curves(folder: Path, signature: str) -> list[dict[str, float]]:
    """The records of a stage's epochs, without the time that they took."""
    records = curves(folder / "outputs", signature)
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def found(folder: Path, signatures: dict[str, bytes]) -> dict[str, bytes]:
    return {signature: weights(folder / "outputs", signature) for signature in signatures}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "images" else [pytest.mark.long]) for kind in KINDS]
)
def test_killed_in_the_middle_of_a_student_it_ends_with_the_same_weights(
    kind: str, folders_of_undisturbed: Callable[[str], Path], say: Say, tmp_path: Path
) -> None:
    arguments, undisturbed = (*KINDS[kind], *OPTIONS[kind]), weights_of(folders_of_undisturbed(kind), kind)
    for signature in undisturbed:  # in the middle of the teacher, then of the student
        process = start(tmp_path, *arguments)
        wait_for(tmp_path, f"outputs/work/{signature}.*/curves.jsonl", lines=2)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "outputs" / "stages" / signature).exists()
    say(*arguments)
    assert found(tmp_path, undisturbed) == undisturbed
    for signature in undisturbed:
        assert untimed_curves(tmp_path, signature) == untimed_curves(folders_of_undisturbed(kind), signature)
    assert not list((tmp_path / "outputs" / "work").glob("*/"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_next_run_goes_on(
    number: signal.Signals, longer: dict[str, bytes], say: Say, tmp_path: Path
) -> None:
    process = start(tmp_path, *LONGER)
    wait_for(tmp_path, "outputs/work/*/stage.json")
    time.sleep(0.5)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == 128 + number, output
    assert "the same command resumes" in output
    assert sum("checkpoint" in path.name for path in files(tmp_path / "outputs" / "work")) == 1
    say(*LONGER)
    assert found(tmp_path, longer) == longer


def test_ctrl_c_in_a_terminal_also_while_the_first_stages_are_starting(tmp_path: Path) -> None:
    process = start(tmp_path, "-m", *LONGER, "seed=0,1")
    wait_for(tmp_path, "outputs/status/*.json")  # the server that starts stages imports torch now
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT, output
    assert "Stopped by SIGINT" in output and "Traceback" not in output


def test_two_commands_that_want_the_same_teacher_train_it_once(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    processes = [start(tmp_path, *LONG, f"method={method}", "generations=1") for method in ("ban", "dkpp")]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(list((tmp_path / "outputs" / "stages").iterdir())) == 3
    assert sum("seed 0: waiting for another process that trains it" in output for output in outputs) == 1
    teacher = next(iter(undisturbed))
    assert weights(tmp_path / "outputs", teacher) == undisturbed[teacher]


def running(folder: Path) -> list[int]:
    """The processes that train a stage."""
    return [note.process for note in Journal(Store(folder / "outputs")).notes() if note.state == "running"]


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 20
    while alive := [process for process in processes if Path(f"/proc/{process}").exists()]:
        assert time.monotonic() < deadline, f"{alive} are left"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_ended_leaves_nobody_behind(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, "-m", *LONG, "seed=0,1", "recipe.epochs=5000")
    wait_for(tmp_path, "outputs/work/*/checkpoint-*")
    wait_for(tmp_path, "outputs/status/*.json")
    trained_by = running(tmp_path)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number), output
    assert trained_by
    wait_until_gone(trained_by)


def test_one_failure_fails_only_its_descendants(tmp_path: Path) -> None:
    sweep = ["-m", *DIGITS, "recipe.epochs=20", "generations=2", "recipe.optimizer.lr=0.1,1e9"]
    done = ban(*sweep, cwd=tmp_path, expect=1)
    assert "3 stages failed" in done.stderr and "lower recipe.optimizer.lr" in done.stderr
    assert len(list((tmp_path / "outputs" / "stages").iterdir())) == 3


def test_a_stage_that_is_killed_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    settings = compose_settings([*DIGITS, "recipe.epochs=100", f"machine.outputs={tmp_path}"])
    stages = [*plan("recipe.epochs=100"), *plan("recipe.epochs=100", "seed=1", "method=labels")]
    victim = stages[0].signature

    def kill(event: Event) -> None:
        if isinstance(event, Started) and event.signature == victim:
            (child,) = (child for child in pool.running if child.stage.signature == victim)
            os.kill(child.process.pid or 0, signal.SIGKILL)

    pool = Pool(stages, host(settings), [Slot("cpu")] * 2, kill)
    failures = pool.run()
    assert list(failures) == [victim, stages[1].signature]
    assert "SIGKILL" in failures[victim] and victim in failures[stages[1].signature]
    assert [path.name for path in (tmp_path / "stages").iterdir()] == [stages[2].signature]
