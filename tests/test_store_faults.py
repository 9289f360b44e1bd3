"""Faults injected into the files of a store: each is reported in a sentence, and nothing else is lost.

Every file of a finished stage, of an unfinished training and beside them meets every kind of damage. A seeded selection
runs with the suite, all of them with `make test-long`, which prints the counts.
"""

import os
import random
import shutil
import signal
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import DAMAGES, OF_A_STAGE, OF_CHECKPOINTS, Fault, faults_of
from helpers import DIGITS, host, quiet

from ban.commands.stages import stages
from ban.commands.status import status
from ban.errors import Interrupted, UserError
from ban.launch.command import execute
from ban.launch.execute import InProcess
from ban.launch.journal import Journal
from ban.plan.lineage import lineage
from ban.report.results import Results
from ban.report.tables import everything
from ban.settings.compose import compose_settings
from ban.settings.schema import Settings
from ban.store.archive import import_stage
from ban.store.store import Store
from ban.training.run import run
from ban.training.signals import Signals

OPTIONS = (*DIGITS, "recipe.epochs=3", "machine.checkpoint_seconds=0")
PATIENCE = 60
"""Seconds that a command may take: those that wait for a pipe or read a terabyte take longer."""

# Stores


class InterruptedAfter(Signals):
    """A signal that arrives after a number of steps."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.left = checks

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted(signal.SIGTERM)


JOB, OTHER = (compose_settings([*OPTIONS, f"method={method}", "yes=true"]) for method in ("ban", "ban_l"))
(TEACHER, STUDENT), (_, OTHER_STUDENT) = ([stage.signature for stage in lineage(job)] for job in (JOB, OTHER))


def within(outputs: Path, job: Settings = JOB) -> Settings:
    return replace(job, machine=replace(job.machine, outputs=outputs))


def train(outputs: Path, job: Settings = JOB, signals: Signals | None = None) -> None:
    for stage in lineage(job):
        run(stage, host(within(outputs, job)), quiet, signals or Signals())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a teacher and its student."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    train(outputs)
    return outputs


@pytest.fixture(scope="module")
def interrupted(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the teacher, and with a student that is half trained."""
    outputs = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(undisturbed / "stages" / TEACHER, outputs / "stages" / TEACHER)
    with pytest.raises(Interrupted):
        train(outputs, signals=InterruptedAfter(6))
    return outputs


@contextmanager
def bounded() -> Iterator[None]:
    """Fails what takes too long."""

    def late(number: int, frame: object) -> None:
        raise AssertionError(f"not finished in {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


OF_A_TRAINING = faults_of(
    f"work/{STUDENT}.*/", ["stage.json", "curves.jsonl", "checkpoint-*", ".checkpoint.part", "weights.safetensors"]
)
BESIDE = faults_of("", ["format", f"work/{STUDENT}.lock", f"status/{STUDENT}.json", f"logs/{STUDENT}.log"])


def some(faults: list[Fault], number: int) -> list[Any]:
    """The faults as parameters: a seeded selection that the suite runs, the others marked as long."""
    chosen = random.Random(0).sample(range(len(faults)), number)
    marks = [() if index in chosen else pytest.mark.long for index in range(len(faults))]
    return [pytest.param(each, marks=m, id=f"{each.place}-{each.kind}") for each, m in zip(faults, marks, strict=True)]


COUNTS: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def counts() -> Iterator[None]:
    yield
    print(f"\nfaults injected and what became of them: {dict(COUNTS)}")  # with -s


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def refusal(outputs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command says when it refuses: a sentence; empty if it does not refuse."""
    commands: dict[str, Callable[..., object]] = {
        "stages": lambda *words: stages(words, within(outputs)),
        "table": lambda: everything(Results(Store(outputs))),
        "status": lambda: status(Journal(Store(outputs))),
        "train": lambda: execute([within(outputs)], InProcess),
    }

    def refused(name: str, *words: str) -> str:
        COUNTS["commands"] += 1
        try:
            with bounded():
                commands[name](*words)
        except (UserError, SystemExit) as refusal:
            return str(refusal)
        return ""

    return refused


def whole(outputs: Path, undisturbed: Path) -> None:
    """Both stages are there, once, with the weights of an undisturbed training."""
    store = Store(outputs)
    assert sorted(path.name for path in store.stages.iterdir()) == sorted((TEACHER, STUDENT))
    for signature in (TEACHER, STUDENT):
        store.check(signature)
        name = "weights.safetensors"
        same = (store.folder(signature) / name).read_bytes() == (undisturbed / "stages" / signature / name).read_bytes()
        COUNTS["lost"] += not same
        assert same
    assert not list(store.works.glob("*.*/"))


def stamps(folder: Path) -> list[int]:
    """What would change if a stage were published again."""
    return [path.lstat().st_mtime_ns for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("fault", some(OF_A_STAGE, 8))
def test_a_stage_with_a_fault_is_named_and_trained_again_and_the_other_is_left_alone(
    fault: Fault,
    undisturbed: Path,
    outputs: Path,
    refusal: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    COUNTS["faults"] += 1
    shutil.copytree(undisturbed, outputs)
    other = stamps(outputs / "stages" / STUDENT)
    fault.damage(outputs / "stages" / TEACHER / fault.place)
    seen = refusal("stages", "verify")
    assert TEACHER in seen or (fault.place == "result.json" and fault.kind == "missing")
    if seen:
        assert f"{TEACHER}/" in seen and "1 of 2 stages damaged" in seen
        assert not refusal("stages")
        assert STUDENT in (listed := capsys.readouterr().out) and TEACHER in listed
        listed_as_damaged = (
            fault.place in ("result.json", "stage.json", "SHA256SUMS") and fault.kind != "without_weights"
        )
        assert (f"Damaged: {TEACHER}" in listed) == listed_as_damaged  # a list reads no other files
        assert refusal("stages", "export", TEACHER, f"{tmp_path}/file.ban")
        assert not (tmp_path / "file.ban").exists()
        assert not refusal("table")
        with suppress(UserError), bounded():  # another student needs the teacher's weights, and nothing else of it
            train(outputs, OTHER)
        shutil.rmtree(outputs / "stages" / OTHER_STUDENT, ignore_errors=True)
        assert not refusal("stages", "remove", TEACHER)
    assert not Store(outputs).has(TEACHER)
    with bounded():
        train(outputs)
    COUNTS["published twice"] += stamps(outputs / "stages" / STUDENT) != other
    assert stamps(outputs / "stages" / STUDENT) == other
    for path in outputs.glob("work/*.*/"):  # that of the other student
        shutil.rmtree(path)
    whole(outputs, undisturbed)


@pytest.mark.parametrize("fault", some(OF_A_TRAINING, 4))
def test_a_training_with_a_fault_ends_with_the_same_weights(
    fault: Fault, undisturbed: Path, interrupted: Path, outputs: Path, refusal: Callable[..., str]
) -> None:
    COUNTS["faults"] += 1
    shutil.copytree(interrupted, outputs)
    (work,) = outputs.glob("work/*.*/")
    name = fault.place.rpartition("/")[2]
    for path in sorted(work.glob(name)) or [work / name]:  # all checkpoints
        path.write_bytes(path.read_bytes() if path.exists() else b"content")
        fault.damage(path)
    other = stamps(outputs / "stages" / TEACHER)
    for words in (("stages",), ("status",), ("stages", "verify"), ("table",)):
        assert not refusal(*words)
    with bounded():
        train(outputs)
    assert stamps(outputs / "stages" / TEACHER) == other
    whole(outputs, undisturbed)


@pytest.mark.parametrize("fault", some(OF_CHECKPOINTS, 4))
def test_a_whole_checkpoint_of_another_content_is_refused(
    fault: Fault, undisturbed: Path, interrupted: Path, outputs: Path, refusal: Callable[..., str]
) -> None:
    COUNTS["faults"] += 1
    shutil.copytree(interrupted, outputs)
    fault.damage(max(outputs.glob("work/*.*/checkpoint-*")))
    with pytest.raises(UserError, match="another version of ban wrote"), bounded():
        train(outputs)
    assert not refusal("stages", "remove", "unfinished")
    train(outputs)
    whole(outputs, undisturbed)


@pytest.mark.parametrize("fault", some(BESIDE, 3))
def test_a_fault_beside_the_stages_loses_nothing(
    fault: Fault, undisturbed: Path, interrupted: Path, outputs: Path, refusal: Callable[..., str]
) -> None:
    COUNTS["faults"] += 1
    shutil.copytree(interrupted, outputs)
    path = outputs / fault.place
    path.parent.mkdir(exist_ok=True)
    path.write_text("1\n" if fault.place == "format" else "content")
    fault.damage(path)
    for words in (("stages",), ("status",), ("stages", "verify"), ("stages", "remove", "unfinished")):
        refusal(*words)
    if refused := refusal("train"):
        assert str(path) in refused or str(outputs) in refused
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        assert not refusal("train")
    whole(outputs, undisturbed)


@pytest.mark.parametrize("fault", some(OF_A_STAGE, 4))
def test_a_complete_folder_with_a_fault_is_not_published(fault: Fault, undisturbed: Path, outputs: Path) -> None:
    """Between the last file and the renaming."""
    COUNTS["faults"] += 1
    shutil.copytree(undisturbed, outputs)
    work = outputs / "work" / f"{STUDENT}.00000000"
    (outputs / "stages" / STUDENT).rename(work)
    fault.damage(work / fault.place)
    with bounded():
        train(outputs)
    whole(outputs, undisturbed)


# Archives


def test_an_archive_with_wrong_content_is_refused_before_anything_is_taken(undisturbed: Path, tmp_path: Path) -> None:
    stage, copy, file = undisturbed / "stages" / TEACHER, tmp_path / "copy", tmp_path / "stage.ban"
    for fault in OF_A_STAGE:
        if fault.kind in DAMAGES and fault.kind not in ("flipped", "truncated", "garbage", "missing", "touch"):
            continue
        COUNTS["archives"] += 1
        shutil.copytree(stage, copy)
        fault.damage(copy / fault.place)
        with zipfile.ZipFile(file, "w") as archive:
            for path in copy.iterdir():
                archive.write(path, path.name)
        with pytest.raises(UserError, match="or it is damaged: "), bounded():
            import_stage(Store(tmp_path / "store"), file)
        assert not (tmp_path / "store").exists()
        shutil.rmtree(copy)


@pytest.mark.parametrize("entries", [2_000, pytest.param(70_000, marks=pytest.mark.long)])
def test_an_archive_of_too_many_or_too_large_files_is_refused_early(
    entries: int, undisturbed: Path, tmp_path: Path
) -> None:
    file = tmp_path / "stage.ban"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(entries):  # above 65,535 of them, the archive needs the format's 64-bit extension
            archive.writestr(f"{number}", "")
    with pytest.raises(UserError, match="more files than a stage"):
        import_stage(Store(tmp_path), file)
    with zipfile.ZipFile(file, "w") as archive:
        for path in (undisturbed / "stages" / TEACHER).iterdir():
            if path.name == "weights.safetensors":
                path = tmp_path / "weights.safetensors"
                path.touch()
                os.truncate(path, 2**28)
            archive.write(path, path.name)
    with pytest.raises(UserError, match=r"weights.safetensors is larger than it can be"):
        import_stage(Store(tmp_path), file)


# Stages under another's name


@pytest.mark.parametrize("exchange", ["swapped", "copied"])
def test_a_stage_under_anothers_name_is_not_used(
    exchange: str,
    undisturbed: Path,
    outputs: Path,
    refusal: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(undisturbed, outputs)
    one, other = outputs / "stages" / TEACHER, outputs / "stages" / STUDENT
    if exchange == "swapped":
        one.rename(outputs / "aside")
        other.rename(one)
        (outputs / "aside").rename(other)
    else:
        shutil.rmtree(one)
        shutil.copytree(other, one)
    assert f"stage.json is that of the stage '{STUDENT}', not of {TEACHER}" in refusal("stages", "verify")
    refusal("table")
    assert f"not of {TEACHER}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=f"not of {TEACHER}"):
        train(outputs, OTHER)
    assert not Store(outputs).has(OTHER_STUDENT)
