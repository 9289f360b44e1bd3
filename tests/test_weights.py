"""`teacher.weights=FILE`: a generation 0 whose weights come from a file."""

import argparse
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import DIGITS, KINDS, Say, host, plan, publish, quiet, train_undisturbed, weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ban import metrics
from ban.errors import Interrupted, UserError
from ban.events import Event, Finished, Started, Stopped
from ban.plan.lineage import lineage
from ban.plan.stage import Stage
from ban.report.paper import is_as_published
from ban.report.results import Results
from ban.report.statistics import Interval
from ban.report.tables import compare, is_baseline
from ban.report.verdicts import count, notes
from ban.settings.compose import compose_settings
from ban.settings.schema import Cell, TableLayout
from ban.settings.sweeps import jobs_of
from ban.settings.weights import LIMIT, content, read
from ban.store.archive import export_stage, import_stage
from ban.store.store import Store
from ban.training import build
from ban.training.from_file import load_weights
from ban.training.rehearsal import rehearse_anew
from ban.training.run import run
from ban.training.signals import Signals

State = dict[str, Tensor]
FEW = "recipe.epochs=10"
SPLIT = ("dataset.validation_size=50", "dataset.test_size=99")


@pytest.fixture
def state() -> State:
    """The weights of an untrained network for digits."""
    torch.manual_seed(0)
    return build.network(plan()[0]).state_dict()


@pytest.fixture
def file(state: State, tmp_path: Path) -> Path:
    save_file(state, path := tmp_path / "teacher.safetensors")
    return path


def run_all(outputs: Path, *overrides: str, kind: str = "images", report: Callable[[Event], None] = quiet) -> list[Any]:
    settings = compose_settings([*KINDS[kind], f"machine.outputs={outputs}", *overrides])
    return [run(stage, host(settings), report, Signals()) for stage in lineage(settings)]


# What it is


def lightning(state: State) -> dict[str, Any]:
    return {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3, "optimizer": [{}]}


FORMS: dict[str, Callable[[State, Path], object]] = {
    "w.safetensors": save_file,
    "w.pt": torch.save,
    "w.ckpt": lambda state, path: torch.save(lightning(state), path),
    "parallel and compiled.bin": lambda state, path: torch.save(
        {"model": {f"module._orig_mod.{name}": value for name, value in state.items()}}, path
    ),
    "reversed.pth": lambda state, path: torch.save(dict(reversed(state.items())), path),
    "legacy.pt": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "parameters.pt": lambda state, path: torch.save(
        {name: nn.Parameter(value) if value.is_floating_point() else value for name, value in state.items()}, path
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_weights_are_one_teacher_however_they_are_saved(
    name: str, state: State, file: Path, tmp_path: Path
) -> None:
    FORMS[name](state, tmp_path / name)
    assert content(tmp_path / name) == content(file)
    loaded, converted = read(tmp_path / name)
    assert {key: value.tolist() for key, value in loaded.items()} == {key: v.tolist() for key, v in state.items()}
    assert converted == ()


def test_the_signature_covers_weights_network_and_data_but_no_training(state: State, file: Path) -> None:
    def signature(*overrides: str) -> str:
        return plan(f"teacher.weights={file}", "dataset.split_seed=0", *overrides)[0].signature

    expected = signature()
    assert signature("seed=3", "recipe.epochs=7", "recipe.optimizer.lr=0.1", "method=kd", "replica=2") == expected
    assert expected not in {signature("dataset.split_seed=1"), signature("dataset.test_size=99")}
    torch.save(state, other := file.with_name("other.pt"))
    assert plan(f"teacher.weights={other}", "dataset.split_seed=0")[0].signature == expected
    changed = {"value": dict(state), "name": dict(state), "shape": dict(state)}
    changed["value"]["head.bias"] = state["head.bias"].nextafter(torch.tensor(9.0))
    changed["name"]["head.b"] = changed["name"].pop("head.bias")
    changed["shape"]["head.bias"] = state["head.bias"][None]
    for different in changed.values():
        save_file(different, file)
        assert signature() != expected
    assert "weights" not in plan()[0].settings


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_weights_are_converted(dtype: torch.dtype, state: State, file: Path) -> None:
    stored = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    save_file(stored, file)
    loaded, converted = read(file)
    assert converted == (str(dtype).removeprefix("torch."),)
    for name, value in loaded.items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, stored[name].to(value.dtype))


# What it teaches


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_teacher_teaches_the_same_from_its_file(kind: str, tmp_path: Path) -> None:
    short = {"language": "recipe.epochs=2"}.get(kind, FEW)
    teacher, *students = run_all(tmp_path, short, "generations=2", "seed=5", kind=kind)
    path = tmp_path / "stages" / teacher["signature"] / "weights.safetensors"
    found, *same = run_all(tmp_path, short, "generations=2", "seed=5", f"teacher.weights={path}", kind=kind)
    assert found["signature"] != teacher["signature"]
    assert weights_of(tmp_path, found) == weights_of(tmp_path, teacher)
    assert [weights_of(tmp_path, each) for each in same] == [weights_of(tmp_path, each) for each in students]
    held_out = {name: value for name, value in teacher["networks"]["0"].items() if not name.startswith("train")}
    assert found["networks"] == {"0": held_out}
    assert found["epochs"] == 0 and same[0]["teachers"] == [found["signature"]]
    assert Store(tmp_path).curves(found["signature"]) == []


def weights_of(outputs: Path, result: Mapping[str, Any]) -> dict[str, list[Any]]:
    loaded = load_file(outputs / "stages" / result["signature"] / "weights.safetensors")
    return {name: tensor.tolist() for name, tensor in loaded.items()}


def test_its_published_numbers_are_those_of_its_published_predictions(file: Path, tmp_path: Path) -> None:
    (result,) = run_all(tmp_path, f"teacher.weights={file}", "generations=0", *SPLIT)
    store = Store(tmp_path)
    measured = metrics.measure(store.predictions(result["signature"]))
    assert {f"test_{name}": value for name, value in measured.items()}.items() <= result.items()
    assert "validation_error_percent" in result and "train_error_percent" not in result
    assert set(store.check(result["signature"])) >= {"weights.safetensors", "predictions.safetensors", "curves.jsonl"}
    export_stage(store, result["signature"], tmp_path / "stage")
    assert import_stage(Store(tmp_path / "other"), tmp_path / "stage") == result["signature"]


def test_a_teacher_of_another_network(tmp_path: Path) -> None:
    network = build.network(plan("model=wrn_10_1")[0])
    save_file(network.state_dict(), path := tmp_path / "wrn.safetensors")
    teacher, student = run_all(tmp_path, FEW, "teacher.model=wrn_10_1", f"teacher.weights={path}")
    assert [teacher["model"], student["model"]] == ["wrn_10_1", "small_conv"]


def test_the_lineage_begins_with_it(file: Path, state: State, tmp_path: Path) -> None:
    stages = plan(f"teacher.weights={file}", "generations=3", "replica=1", "seed=4")
    assert [(stage.generation, stage.epochs > 0, stage.replica) for stage in stages] == [
        *((0, False, 0), (1, True, 0), (2, True, 0), (3, True, 1))
    ]
    assert [stage.root_seed for stage in stages] == [0, 4, 4, 4]
    assert stages[1].teachers[0].stage is stages[0]
    network = build.network(plan("model=wrn_10_1")[0])
    save_file(network.state_dict(), tmp_path / "wrn.safetensors")
    files = f"teacher.weights=[{file},{tmp_path / 'wrn.safetensors'}]"
    two = ("teacher.models.a=small_conv", "teacher.models.b=wrn_10_1", "method.teacher_count=2")
    first, second, student = plan(files, *two)
    assert [first.model.name, second.model.name] == ["small_conv", "wrn_10_1"]
    assert [parent.stage for parent in student.teachers] == [first, second]
    for stage in (first, second, student):
        rehearse_anew(stage)
    first_only, _ = plan("method=fitnets", "model=wrn_10_1", f"teacher.weights={tmp_path / 'wrn.safetensors'}")[:2]
    assert first_only.label == "Teacher from wrn.safetensors"


def test_ban_says_how_good_it_is_before_it_teaches(file: Path, say: Say) -> None:
    words = (*DIGITS, f"teacher.weights={file}", FEW)
    planned = say(*words, "dry_run=true")
    assert "Teacher from teacher.safetensors" in planned and "to test" in planned and f"from {file}" in planned
    assert "1 to train, 1 to test" in planned
    lines = say(*words).splitlines()
    tested = next(line for line in lines if line.startswith("Teacher from teacher.safetensors, Small-Conv: test error"))
    taught = next(line for line in lines if line.startswith("BAN-1, Small-Conv, seed 0: test error"))
    assert lines.index(tested) < lines.index(taught)
    assert any("Weights from a file, not trained here: Teacher from teacher.safetensors." in line for line in lines)
    again = say(*words, "seed=1", "dataset.split_seed=0")
    assert f"stored: {tested.partition(': ')[2]}" in again
    assert "Teacher from teacher.safetensors" in say("stages")
    assert "none, its weights are those of a file" in say("stages", "show", plan(*words[-2:])[0].signature)
    assert "3 stages checked" in say("stages", "verify")
    assert "Weights from a file, not trained here: Teacher from teacher.safetensors." in say("table")


def test_weights_that_are_worse_than_a_guess_are_doubted(tmp_path: Path) -> None:
    overrides = ("dataset.split_seed=0", FEW, "generations=0")
    (teacher,) = run_all(tmp_path, *overrides)
    learned = load_file(tmp_path / "stages" / teacher["signature"] / "weights.safetensors")
    opposite = learned | {name: -learned[name] for name in ("head.weight", "head.bias")}
    save_file(opposite, path := tmp_path / "opposite.safetensors")
    events: list[Event] = []
    (result,) = run_all(tmp_path, *overrides, f"teacher.weights={path}", report=events.append)
    assert result["test_error_percent"] > 95
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert "Warning: this is worse than a uniform guess among 10 classes" in finished.outcome


# In tables


def test_students_of_one_file_are_one_cluster(file: Path, tmp_path: Path) -> None:
    store, planned = Store(tmp_path), list[Stage]()
    for seed in range(3):
        stages = plan(f"teacher.weights={file}", f"seed={seed}", "dataset.split_seed=0", "generations=2")
        planned += stages
        for stage in stages:
            if not store.has(stage.signature):
                publish(store, stage, test_error_percent=20.0 + seed - stage.generation)
    (table,) = compare(planned, Results(store))
    assert [count(row) for row in table.rows[:3]] == ["1", "3 students, 1 teacher", "3 students, 1 teacher"]
    assert table.rows[0].heading == "Teacher from teacher.safetensors"
    assert table.rows[1].gain == Interval(mean=0.0, half_width=None, clusters=1, count=3)
    assert notes([table])[0][0] == "Weights from a file, not trained here: Teacher from teacher.safetensors."
    assert not is_baseline(Results(store).by_signature[planned[0].signature])


def test_one_file_on_several_splits_is_one_network(file: Path, tmp_path: Path) -> None:
    store, planned = Store(tmp_path), list[Stage]()
    for seed in range(3):
        planned += plan(f"teacher.weights={file}", f"seed={seed}")
        for stage in planned[-2:]:
            publish(store, stage, test_error_percent=20.0 + seed - stage.generation)
    (table,) = compare(planned, Results(store))
    assert [count(row) for row in table.rows] == ["1 network, 3 splits", "3 students, 1 teacher"]
    assert table.rows[1].gain == Interval(mean=-1.0, half_width=None, clusters=1, count=3)


def test_a_cell_of_an_experiment_says_that_its_teacher_is_from_a_file(file: Path, tmp_path: Path) -> None:
    store, stages = Store(tmp_path), plan(f"teacher.weights={file}")
    for stage in stages:
        publish(store, stage)
    layout = TableLayout(cells={"Teacher": [Cell(method="labels")], "BAN": [Cell(method="ban", generation=1)]})
    (table,) = compare(stages, Results(store), layout)
    assert [row.from_file for row in table.rows] == [True, False]
    assert notes([table])[0][0] == "Weights from a file, not trained here: Teacher."
    (mixed,) = compare([*plan(), *stages], Results(store))
    assert "BAN-1 (teacher's weights teacher.safetensors" in " ".join(row.heading for row in mixed.rows)


def test_it_is_never_the_papers(state: State, tmp_path: Path) -> None:
    paper = ("model=densenet_90_60", "dataset=cifar100")
    save_file(state, path := tmp_path / "w.safetensors")
    trained = lineage(compose_settings(paper))
    assert [is_as_published(stage) for stage in trained] == [True, True]
    loaded = lineage(compose_settings([*paper, f"teacher.weights={path}"]))
    assert [is_as_published(stage) for stage in loaded] == [False, False]


def test_a_network_whose_only_part_is_called_module(file: Path, state: State) -> None:
    (stage, _), wrapped = plan(f"teacher.weights={file}"), nn.Module()
    wrapped.module = build.network(stage)
    load_weights(wrapped, stage)
    assert {name: value.tolist() for name, value in wrapped.module.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }


# When something happens to the file or the process


def test_an_interrupted_test_leaves_no_checkpoint_and_is_repeated(file: Path, tmp_path: Path) -> None:
    settings = compose_settings([*DIGITS, f"machine.outputs={tmp_path}", f"teacher.weights={file}"])
    stage, signals, events = lineage(settings)[0], Signals(), list[Event]()

    def stop(event: Event) -> None:
        events.append(event)
        if isinstance(event, Started):
            signals.number = 15

    with pytest.raises(Interrupted):
        run(stage, host(settings), stop, signals)
    assert isinstance(events[-1], Stopped)
    assert [path.name for path in tmp_path.glob("work/*.*/*") if path.name.startswith("checkpoint")] == []
    assert [path.name for path in tmp_path.glob("work/*.*/*")]
    run(stage, host(settings), quiet, Signals())
    assert weights(tmp_path, stage.signature)


@pytest.mark.parametrize(("change", "message"), [("other", "has changed since"), ("gone", "does not exist")])
def test_the_file_is_the_one_that_was_planned(
    change: str, message: str, state: State, file: Path, tmp_path: Path
) -> None:
    settings = compose_settings([*DIGITS, f"machine.outputs={tmp_path}", f"teacher.weights={file}"])
    stage = lineage(settings)[0]
    if change == "other":
        save_file(state | {"head.bias": state["head.bias"] + 1}, file)
    else:
        file.unlink()
    with pytest.raises(UserError, match=f"teacher.weights: {file} {message}"):
        run(stage, host(settings), quiet, Signals())
    assert not Store(tmp_path).has(stage.signature)


def test_a_published_teacher_does_not_need_its_file(file: Path, tmp_path: Path) -> None:
    first = train_undisturbed(tmp_path, *DIGITS, FEW, f"teacher.weights={file}", "dataset.split_seed=0")
    signature = next(iter(first))
    file.unlink()
    with pytest.raises(UserError, match=r"does not exist; if its network was tested or taught already, `ban stages`"):
        plan(f"teacher.weights={file}")
    stored = tmp_path / "outputs" / "stages" / signature / "weights.safetensors"
    again = train_undisturbed(tmp_path, *DIGITS, FEW, f"teacher.weights={stored}", "dataset.split_seed=0")
    assert again == first


# What is refused


def raw(content: bytes) -> Callable[[State, Path], object]:
    return lambda _, path: path.write_bytes(content)


def saved(change: Callable[[State], object]) -> Callable[[State, Path], object]:
    return lambda state, path: torch.save(change(state), path)


def sparse(size: int) -> Callable[[State, Path], object]:
    def write(_: State, path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return write


UNREADABLE: dict[str, tuple[str, Callable[[State, Path], object], str]] = {
    "a folder": ("w.pt", lambda _, path: path.mkdir(), "is a folder"),
    "a pipe": ("w.pt", lambda _, path: os.mkfifo(path), "is not a regular file"),
    "nothing": ("w.pt", raw(b""), "is empty"),
    "too much": ("w.pt", sparse(LIMIT + 1), "has 8.6 GB, more than the 8.6 GB that weights can have"),
    "zeros": ("w.pt", sparse(10**6), "is damaged, or not a file of torch.save: name one that"),
    "text": ("w.pt", raw(b"hello"), "is damaged, or not a file of torch.save"),
    "half": ("w.pt", lambda state, path: raw(_bytes(state, path)[:3000])(state, path), "is damaged, or not"),
    "noise": ("w.safetensors", raw(bytes(range(256))), "is damaged, or not a file of safetensors"),
    "a header alone": ("w.safetensors", raw(struct.pack("<Q", 2) + b"{}"), "holds no weights"),
    "a list": ("w.pt", saved(lambda state: [*state.values()]), "holds a list, not the weights of a network by name"),
    "a tensor": ("w.pt", saved(lambda state: state["head.bias"]), "holds a Tensor, not the weights"),
    "an empty state dict": ("w.pt", saved(lambda _: {}), "holds no weights"),
    "other keys": ("w.pt", saved(lambda state: {"net": state}), r"holds 'net' \(\w+\), but only tensors under their"),
    "numbers": ("w.pt", saved(lambda state: dict(enumerate(state.values()))), r"holds 0 \(Tensor\), but only"),
    "a network": ("w.pt", saved(lambda _: nn.Linear(2, 2)), "holds an object of torch.nn.modules.linear.Linear; read"),
    "options": (
        *("w.pt", saved(lambda state: {"model": state, "args": argparse.Namespace(lr=1)})),
        r"holds an object of argparse.Namespace; .* with torch.save\(network.state_dict\(\), FILE\)",
    ),
    "NaN": (
        *("w.pt", saved(lambda state: state | {"head.bias": torch.tensor([torch.nan, torch.inf, 1.0])})),
        "holds 2 of 3 values of head.bias that are not finite numbers in float32",
    ),
    "too large for fp32": (
        *("w.pt", saved(lambda state: state | {"head.bias": torch.tensor([1e300], dtype=torch.float64)})),
        "holds 1 of 1 values of head.bias that are not finite",
    ),
    "complex": (
        *("w.pt", saved(lambda state: state | {"head.bias": torch.zeros(10, dtype=torch.complex64)})),
        "holds head.bias as complex64, torch.strided, on cpu: save dense weights as float32",
    ),
    "sparse weights": (
        *("w.pt", saved(lambda state: state | {"head.weight": state["head.weight"].to_sparse()})),
        "holds head.weight as float32, torch.sparse_coo",
    ),
    "no values": (
        *("w.pt", saved(lambda state: state | {"head.weight": torch.zeros(10, 16, device="meta")})),
        "holds head.weight as float32, torch.strided, on meta",
    ),
}


def _bytes(state: State, path: Path) -> bytes:
    torch.save(state, path)
    return path.read_bytes()


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_without_usable_weights_is_refused(case: str, state: State, tmp_path: Path) -> None:
    name, write, message = UNREADABLE[case]
    write(state, path := tmp_path / name)
    with pytest.raises(UserError, match=f"^teacher.weights: {path} {message}") as refused:
        content(path)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


MISFITS: dict[str, tuple[Callable[[State], State], str]] = {
    "one is missing": (lambda state: _without(state, "head.bias"), r"1 tensor is missing \(head.bias\)\."),
    "one is too much": (
        lambda state: state | {"fc.bias": torch.zeros(1)},
        r"1 tensor is not the network's \(fc.bias\)",
    ),
    "other classes": (
        lambda state: state | {"head.weight": torch.zeros(5, 16), "head.bias": torch.zeros(5)},
        r"with 10 classes: 2 tensors have another shape or type \(head.weight \[5, 16\] instead of \[10, 16\], "
        r"head.bias \[5\] instead of \[10\]\)\. Choose its network with teacher.model=NAME",
    ),
    "whole numbers": (
        lambda state: state | {"head.weight": torch.ones(10, 16, dtype=torch.int8)},
        r"1 tensor has another shape or type \(head.weight int8 instead of float32\)",
    ),
    "another network": (
        lambda _: {f"layer.{index}": torch.zeros(1) for index in range(5)},
        r"14 tensors are missing \(stage1.0.weight, stage1.1.weight, stage1.1.bias, …\); 5 tensors are not the "
        r"network's \(layer.0, layer.1, layer.2, …\)\.",
    ),
}


def _without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize("case", MISFITS)
def test_weights_of_another_network_are_refused(case: str, state: State, tmp_path: Path) -> None:
    change, message = MISFITS[case]
    save_file(change(state), path := tmp_path / "w.safetensors")
    settings = compose_settings([*DIGITS, f"machine.outputs={tmp_path}", f"teacher.weights={path}"])
    stage, message = lineage(settings)[0], f"^teacher.weights: {path} does not fit Small-Conv.*{message}"
    with pytest.raises(UserError, match=message):
        rehearse_anew(stage)
    with pytest.raises(UserError, match=message):  # also where nothing was rehearsed
        run(stage, host(settings), quiet, Signals())


def test_nothing_is_written_for_weights_of_another_network(file: Path, tmp_path: Path, say: Say) -> None:
    with pytest.raises(SystemExit, match="does not fit Wide-ResNet-10-1 with 10 classes: 44 tensors are missing"):
        say(*DIGITS, f"teacher.weights={file}", "teacher.model=wrn_10_1")
    assert [*tmp_path.iterdir()] == [file]


REFUSED = {
    "teacher.weights=": "teacher.weights is empty (is a variable of the shell unset?); name a file.",
    "teacher.weights=[]": "teacher.weights is []; it must have 1 or more entries.",
    "teacher.weights=[FILE,'']": "teacher.weights.1 is empty (is a variable of the shell unset?); name a file.",
    "teacher.weights=3": "teacher.weights.0 is 3; it must be a path.",
    "teacher.weights=[FILE,FILE]": "teacher.weights names 2 files, but method=ban has 1 teacher: name one file",
    "teacher.weights=FILE method.teacher_count=2": "teacher.weights names 1 file, but method=ban has 2 teachers",
    "teacher.weights=[FILE,FILE] method.teacher_count=2": "holds the same weights as another of the files",
    "teacher.weights=FILE teacher.seed=3": "teacher.seed has no effect: teacher.weights names a teacher that is not",
    "teacher.weights=FILE teacher.recipe.epochs=3": "teacher.recipe has no effect",
    "teacher.weights=FILE teacher.recipe=smoke_images": "teacher.recipe has no effect",
    "teacher.weights=FILE teacher.method=tolerant_teacher": "teacher.method has no effect",
    "teacher.weights=FILE generations=0 replica=1": "replica has no effect",
    "teacher.weights=FILE method=labels": "teacher.weights has no effect: method=labels has no trained teacher.",
    "teacher.weights=FILE method=deep_mutual_learning": "teacher.weights has no effect: method=deep_mutual_",
    "teacher.weights=FILE method=mean_teacher": "teacher.weights has no effect: method=mean_teacher has no trained",
}


@pytest.mark.parametrize("words", REFUSED)
def test_settings_without_effect_are_refused(words: str, file: Path) -> None:
    with pytest.raises(UserError) as refused:
        plan(*words.replace("FILE", str(file)).split())
    assert REFUSED[words] in str(refused.value)


def test_they_are_refused_in_each_job_of_a_sweep(file: Path) -> None:
    with pytest.raises(UserError, match=r"teacher\.seed has no effect"):
        jobs_of([*DIGITS, f"teacher.weights={file}", "teacher.seed=0", "seed=0,1"])


def test_a_path_is_absolute_and_read_once_for_a_sweep(
    file: Path, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages = [plan("teacher.weights=teacher.safetensors", f"seed={seed}")[0] for seed in range(2)]
    assert [stage.weights.path for stage in stages if stage.weights] == [file, file]
    assert content(file) is content(file)
    save_file(state | {"head.bias": state["head.bias"] + 1}, file)
    assert content(file).sha256 != stages[0].weights.sha256  # pyright: ignore[reportOptionalMemberAccess]


def test_its_model_card_says_that_it_was_not_trained_here(file: Path, say: Say, tmp_path: Path) -> None:
    trained = train_undisturbed(tmp_path, *DIGITS, FEW, f"teacher.weights={file}", "dataset.split_seed=0")
    say("export", next(iter(trained)), "network")
    card = (tmp_path / "network" / "README.md").read_text(encoding="utf-8")
    assert "not trained here, test error" in card and "- Method" not in card and "- Time" not in card
    say("report")
    assert "teacher.safetensors" in (tmp_path / "outputs" / "report" / "index.html").read_text(encoding="utf-8")
