"""Faults injected into the files of a store: each is reported in a sentence, and nothing else is lost.

Every file of a finished stage, of an unfinished training and beside them meets every kind of damage. A seeded selection
runs with the suite, all of them with `make test-long`, which prints the counts.
"""

import functools
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import DIGITS, flip_a_bit, host, quiet
from safetensors.numpy import load, save

from ban.commands.stages import stages
from ban.commands.status import status
from ban.errors import Interrupted, UserError
from ban.launch.execute import InProcess, execute
from ban.launch.journal import Journal
from ban.plan.lineage import lineage
from ban.report.tables import everything
from ban.settings.compose import compose_settings
from ban.settings.schema import Settings
from ban.store.archive import import_stage
from ban.store.store import Store
from ban.training.run import run
from ban.training.signals import Signals

OPTIONS = (*DIGITS, "recipe.epochs=3", "machine.checkpoint_seconds=0")
PATIENCE = 20
"""Seconds that a command may take: those that wait for a pipe or read a terabyte take longer."""

# Kinds of damage


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("content")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def link(path: Path) -> None:
    """A link to a pipe: following it would wait."""
    target = path.with_name(".pipe")
    target.unlink(missing_ok=True)
    os.mkfifo(target)
    path.symlink_to(target.name)


def terabyte(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(3000))


def in_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, chdir(path.parent):
        server.bind(path.name)


REPLACEMENTS = [pipe, folder, loop, broken_link, link, terabyte, garbage, in_socket, Path.touch]
"""What may stand where a file is expected."""


def replaced(path: Path, by: Callable[[Path], None]) -> None:
    path.unlink()
    by(path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{each.__name__: functools.partial(replaced, by=each) for each in REPLACEMENTS},
    **{"missing": Path.unlink, "flipped": flip_a_bit, "truncated": truncated, "longer": longer},
}

# Content that has the right checksum


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


JSON = {
    "list": b"[]",
    "number": b"7",
    "not_json": b"{",
    "deep": nested(900),
    "deeper": nested(10_000),
    "open": b"[" * 100_000,
    "large": b"{" + b" " * 60_000_000 + b"}",
    "latin": "{'ä'}".encode("latin-1"),
}


def edited(**values: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | values).encode()


def without(name: str) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({k: v for k, v in json.loads(content).items() if k != name}).encode()


def arrays(**values: Any) -> Callable[[bytes], bytes]:
    return lambda content: save({k: v for k, v in (load(content) | values).items() if v is not None})


def constant(content: bytes) -> Callable[[bytes], bytes]:
    return lambda before: content


ROWS, TARGETS = np.full((1697, 10), -2.3, np.float32), np.zeros(1697, np.int64)
WRONG: dict[str, dict[str, Callable[[bytes], bytes]]] = {
    "result.json": {
        **{name: constant(content) for name, content in JSON.items()},
        **{name: without(name) for name in ("signature", "metric", "networks", "parents", "finished", "threads")},
        "infinite": edited(test_error_percent=float("inf")),
        "overflow": lambda content: content.replace(b'"threads": 1', b'"threads": 1, "more": 1e999'),
        "others_seed": edited(seed=9),
        "text": edited(parameters="many"),
        "surrogate": edited(device="\ud800"),
        "true": edited(seconds=True),
    },
    "stage.json": {
        **{name: constant(content) for name, content in JSON.items()},
        **{name: without(name) for name in ("signature", "dataset", "models", "protocol")},
        "others_seed": edited(seed=9),
        "no_list": edited(models=5),
        "others_name": edited(signature="0" * 16),
    },
    "curves.jsonl": {
        **{name: constant(content) for name, content in JSON.items()},
        "empty": constant(b""),
        "no_keys": constant(b'{"a": 1}\n' * 3),
        "one_epoch": lambda content: content.splitlines()[0],
        "an_epoch_twice": lambda content: content.splitlines()[0] + b"\n" + content,
        "text": lambda content: content.replace(b'"rate": ', b'"rate": "x", "r": '),
        "not_finite": lambda content: content.replace(b'"rate": ', b'"rate": NaN, "r": '),
    },
    "predictions.safetensors": {
        "empty": constant(b""),
        "garbage": constant(b"garbage" * 1000),
        "no_arrays": constant(save({})),
        "other_keys": arrays(logits=ROWS),
        "no_targets": arrays(targets=None),
        "other_classes": arrays(log_probabilities=ROWS[:, :9]),
        "fewer": arrays(log_probabilities=ROWS[1:], targets=TARGETS[1:]),
        "flat": arrays(log_probabilities=ROWS[:, 0].copy()),
        "out_of_range": arrays(targets=TARGETS + 10),
        "negative": arrays(targets=TARGETS - 1),
        "other_type": arrays(targets=TARGETS.astype(np.float32)),
        "not_finite": arrays(log_probabilities=ROWS * np.float32("nan")),
        "above_one": arrays(log_probabilities=-ROWS),
    },
    "weights.safetensors": {
        "empty": constant(b""),
        "garbage": constant(b"garbage" * 1000),
        "no_tensors": constant(save({})),
        "long_header": constant((2**60).to_bytes(8, "little") + b"{}"),
        "large": constant(bytes(2**27)),
    },
    "SHA256SUMS": {
        "empty": constant(b""),
        "shorter": lambda content: b"\n".join(content.splitlines()[:-1]),
        "without_weights": lambda content: b"\n".join(line for line in content.splitlines() if b"weights" not in line),
        "others": lambda content: content + b"0" * 64 + b"  ../evil\n",
        "twice": lambda content: content * 2,
        "no_sums": constant(b"hello\n"),
        "latin": constant("ä".encode("latin-1")),
    },
}
WRONG_CHECKPOINTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "list": lambda content: [],
    "no_learners": lambda content: content | {"learners": []},
    "learners_of_text": lambda content: content | {"learners": ["a"]},
    "no_network": lambda content: content | {"learners": [{"optimizer": {}}]},
    "beyond_the_end": lambda content: content | {"epoch": 7},
    "at_the_end": lambda content: content | {"epoch": 3, "step": 0, "sums": []},
    "negative": lambda content: content | {"epoch": -1},
    "beyond_the_epoch": lambda content: content | {"step": 10_000},
    "fractional": lambda content: content | {"step": 0.5},
    "text_for_curves": lambda content: content | {"curves": "abc"},
    "other_curves": lambda content: content | {"curves": [{"epoch": 9}] * content["epoch"]},
    "infinite_time": lambda content: content | {"seconds": float("inf")},
    "sums_of_text": lambda content: content | {"sums": ["a"]},
    "a_best_epoch": lambda content: content | {"best": (9, 0.5, {})},
    "no_seconds": lambda content: {key: value for key, value in content.items() if key != "seconds"},
    "more": lambda content: content | {"more": 1},
    "other_format": lambda content: content | {"format": 3},
    "other_shapes": lambda content: reshaped(content, "network"),
    "other_moments": lambda content: reshaped(content, "optimizer"),
    "teacher_of_another": lambda content: content | {"teacher": {"memory": torch.zeros(3)}},
    "no_teacher": lambda content: content | {"teacher": None},
}


def reshaped(value: Any, part: str = "") -> Any:
    """With a row more in every matrix below `part`."""
    if isinstance(value, dict):
        return {key: reshaped(item, "" if key == part else part) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [reshaped(item, part) for item in value]
    return torch.cat([value, value[:1]]) if not part and isinstance(value, torch.Tensor) and value.ndim > 1 else value


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


class Fault(NamedTuple):
    """Damage to a file."""

    place: str
    kind: str
    damage: Callable[[Path], None]


def faults_of(place: str, names: list[str]) -> list[Fault]:
    return [Fault(f"{place}{name}", kind, damage) for name in names for kind, damage in DAMAGES.items()]


def with_checksum(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replaces a file's content, and its checksum too."""

    def damage(path: Path) -> None:
        content = change(path.read_bytes())
        path.write_bytes(content)
        if name != "SHA256SUMS":
            sums = path.with_name("SHA256SUMS")
            lines = [line for line in sums.read_text().splitlines() if not line.endswith(f"  {name}")]
            sums.write_text("\n".join([*lines, f"{hashlib.sha256(content).hexdigest()}  {name}\n"]))

    return damage


def checkpoint_with(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        torch.save(change(torch.load(path, weights_only=True)), buffer := io.BytesIO())
        path.unlink()
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        path.with_name(f"{path.name[:24]}{digest}").write_bytes(buffer.getvalue())

    return damage


OF_A_STAGE = [
    *faults_of("", [*WRONG]),
    *(Fault(name, kind, with_checksum(name, change)) for name, of in WRONG.items() for kind, change in of.items()),
]
OF_A_TRAINING = faults_of(
    f"work/{STUDENT}.*/", ["stage.json", "curves.jsonl", "checkpoint-*", ".checkpoint.part", "weights.safetensors"]
)
OF_CHECKPOINTS = [Fault("checkpoint", kind, checkpoint_with(each)) for kind, each in WRONG_CHECKPOINTS.items()]
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
        "table": lambda: everything(Store(outputs)),
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


@pytest.mark.parametrize("fault", some(OF_A_STAGE, 12))
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
        assert (f"Damaged: {TEACHER}" in listed) == (fault.place in ("result.json", "stage.json", "SHA256SUMS"))
        assert refusal("stages", "export", TEACHER, f"{tmp_path}/file.ban")
        assert not (tmp_path / "file.ban").exists()
        refusal("table")
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


@pytest.mark.parametrize("fault", some(OF_A_TRAINING, 8))
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


@pytest.mark.parametrize("fault", some(OF_CHECKPOINTS, 8))
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


@pytest.mark.parametrize("fault", some(BESIDE, 6))
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


@pytest.mark.parametrize("fault", some(OF_A_STAGE, 8))
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


def test_an_archive_of_too_many_or_too_large_files_is_refused_early(undisturbed: Path, tmp_path: Path) -> None:
    file = tmp_path / "stage.ban"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(70_000):  # so many that the archive needs the format's 64-bit extension
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
    exchange: str, undisturbed: Path, outputs: Path, refusal: Callable[..., str]
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
    assert TEACHER in refusal("table")
    with pytest.raises(UserError, match=f"not of {TEACHER}"):
        train(outputs, OTHER)
    assert not Store(outputs).has(OTHER_STUDENT)
