"""Disks, files and processes that fail: one sentence, nothing lost, and the same weights in the end."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import DIGITS, Say, files, flip_a_bit, host, plan, quiet, start, train_undisturbed, wait_for, weights

from ban.errors import UserError
from ban.events import Event
from ban.launch.devices import Slot
from ban.launch.pool import Pool
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.store.store import Store
from ban.training.run import run
from ban.training.signals import Signals

pytestmark = pytest.mark.slow

OPTIONS = ("method=ban", "recipe.epochs=60", "machine.checkpoint_seconds=0")
LONG = (*DIGITS, *OPTIONS)
TEACHER, STUDENT = (stage.signature for stage in plan(*OPTIONS))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return train_undisturbed(tmp_path_factory.mktemp("undisturbed"), *LONG)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """`outputs` as a file system of a megabyte."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", outputs], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield outputs
    subprocess.run(["umount", outputs], check=True)


def interrupted(folder: Path, *arguments: str) -> Path:
    """The folder of a student that was killed with some epochs behind it."""
    process = start(folder, *arguments)
    wait_for(folder, f"outputs/work/{STUDENT}.*/curves.jsonl", lines=4)
    process.kill()
    process.communicate()
    (work,) = (folder / "outputs" / "work").glob(f"{STUDENT}.*/")
    return work


@pytest.fixture
def ends_as_undisturbed(say: Say, undisturbed: dict[str, bytes], tmp_path: Path) -> Callable[[], str]:
    """Resumes, and returns what was said."""

    def resumed() -> str:
        output = say(*LONG)
        assert {name: weights(tmp_path / "outputs", name) for name in undisturbed} == undisturbed
        return output

    return resumed


def test_a_full_disk_in_the_middle_of_a_checkpoint(
    small_disk: Path, ends_as_undisturbed: Callable[[], str], tmp_path: Path
) -> None:
    process = start(tmp_path, *LONG)
    wait_for(tmp_path, f"outputs/work/{STUDENT}.*/curves.jsonl", lines=2)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert len(re.findall(r"^ban: .* could not be written: .*\.$", output, re.MULTILINE)) == 1, output
    filler.unlink()
    ends_as_undisturbed()


def test_a_full_disk_while_a_stage_is_imported(say: Say, small_disk: Path, tmp_path: Path) -> None:
    quick = ("method=labels", "recipe.epochs=2")
    elsewhere, file = f"machine.outputs={tmp_path / 'elsewhere'}", tmp_path / "teacher.ban"
    say(*DIGITS, *quick, elsewhere)
    signature = plan(*quick)[0].signature
    say("stages", "export", signature, f"{file}", elsewhere)
    Store(small_disk).begin()
    free = shutil.disk_usage(small_disk).free
    (small_disk / "full").write_bytes(bytes(free - file.stat().st_size // 2))
    with pytest.raises(SystemExit, match=r"^ban: outputs/work/\S+ could not be written: No space left on device\.$"):
        say("stages", "import", f"{file}")
    assert {path.name for path in files(small_disk) if not path.name.endswith(".lock")} == {"format", "full"}
    (small_disk / "full").unlink()
    assert f"to outputs/stages/{signature}" in say("stages", "import", f"{file}")
    assert "1 stage checked" in say("stages", "verify")


@pytest.mark.parametrize("how", [pytest.param("flipped", marks=pytest.mark.long), "truncated"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    how: str, ends_as_undisturbed: Callable[[], str], tmp_path: Path
) -> None:
    latest = max(interrupted(tmp_path, *LONG).glob("checkpoint-*"))
    if how == "flipped":
        flip_a_bit(latest)
    else:
        latest.write_bytes(latest.read_bytes()[:1000])
    assert f"ignored damaged checkpoints: {latest.name}" in ends_as_undisturbed()
    log = (tmp_path / "outputs" / "logs" / f"{STUDENT}.log").read_text()
    assert f"ignored damaged checkpoints: {latest.name}" in log
    assert re.search(r"started .*, resumed at [1-9]\d?%\n.*damaged", log)


def test_without_any_whole_checkpoint_the_stage_begins_anew(
    ends_as_undisturbed: Callable[[], str], tmp_path: Path
) -> None:
    for checkpoint in interrupted(tmp_path, *LONG).glob("checkpoint-*"):
        flip_a_bit(checkpoint)
    assert "ignored damaged checkpoints" in ends_as_undisturbed()


def test_a_checkpoint_that_is_a_program_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "evil",))

    settings = compose_settings([*LONG, f"machine.outputs={tmp_path}"])
    with Store(tmp_path).claim(TEACHER) as work:
        assert work is not None
        work.write_checkpoint(1, lambda path: torch.save(Evil(), path))
    with pytest.raises(UserError, match="another version of ban wrote"):
        run(lineage(settings)[0], host(settings), quiet, Signals())
    assert not (tmp_path / "evil").exists()


def test_a_damaged_teacher_teaches_nobody(say: Say, ends_as_undisturbed: Callable[[], str], tmp_path: Path) -> None:
    say(*LONG, "generations=0")
    flip_a_bit(tmp_path / "outputs" / "stages" / TEACHER / "weights.safetensors")
    with pytest.raises(SystemExit, match=rf"^ban: .*weights.safetensors is damaged.*`ban stages remove {TEACHER}`.*$"):
        say(*LONG)
    say("stages", "remove", TEACHER, "yes=true")
    ends_as_undisturbed()


@pytest.mark.parametrize("arguments", [LONG, ("table",), ("status",), ("stages",)])
def test_a_store_of_a_newer_version_is_left_alone(arguments: tuple[str, ...], say: Say, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "format").write_text("2\n")
    with pytest.raises(SystemExit, match="was written by another version of ban"):
        say(*arguments)
    assert [path.name for path in files(tmp_path)] == ["format"]


def test_a_store_that_can_only_be_read_serves_what_it_has(say: Say, small_disk: Path) -> None:
    quick = (*DIGITS, "recipe.epochs=5")
    say(*quick)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    shown = say(*quick)
    assert "2 in the store, 0 to train" in shown and "BAN-1" in shown
    assert "BAN-1" in say("table") and "2 stages, " in say("stages")
    with pytest.raises(
        SystemExit, match=r"outputs/.* cannot be written \(Read-only file system\): .* another machine\.outputs"
    ):
        say(*quick, "generations=2")


def test_who_may_only_read_a_store_sees_what_is_trained(small_disk: Path, tmp_path: Path) -> None:
    readable = tmp_path / "readable"
    readable.mkdir()
    with Store(small_disk).claim("s"):
        subprocess.run(["mount", "--bind", small_disk, readable], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", readable], check=True)
            assert Store(readable).is_claimed("s")
        finally:
            subprocess.run(["umount", readable], check=True)


@pytest.mark.parametrize("broken", [OSError(28, "No space left on device"), RuntimeError("a bug")])
def test_an_error_of_the_sweep_itself_leaves_nobody_behind(broken: Exception, tmp_path: Path) -> None:
    settings = compose_settings([*LONG, "recipe.epochs=5000", f"machine.outputs={tmp_path}"])
    stages = plan(*OPTIONS, "recipe.epochs=5000")

    def fail(event: Event) -> None:
        processes.extend(child.process for child in pool.running)
        raise broken

    processes, pool = [], Pool(stages, host(settings), [Slot("cpu")], fail)
    with pytest.raises(type(broken)):
        pool.run()
    assert processes and not any(process.is_alive() for process in processes)


@pytest.mark.parametrize("how", [(), ("-m",)])
def test_a_failure_is_noted_and_told_once(
    how: tuple[str, ...], say: Say, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        say(*how, *DIGITS, "method=labels", "recipe.epochs=5", "dataset.checksum=sha256:0")
    said, reason = capsys.readouterr().out, f"{stopped.value}"
    assert "Teacher, Small-Conv, seed 0: failed\n" in said and "has the checksum" not in said
    assert reason.count("the installed version ships other data") == 1
    (log,) = (tmp_path / "outputs" / "logs").iterdir()
    assert log.read_text().count("failed: scikit-learn's data set digits has") == 1
    assert "1 failed" in say("status")
