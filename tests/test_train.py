"""One contract for every method, and a test for each way in which distillation silently fails."""

import hashlib
import itertools
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import DIGITS, KINDS, LANGUAGE, Train, curves, frozen, host, plan, quiet, weights, with_bases
from safetensors.torch import load_file, save_file
from torch import nn

from ban.errors import Interrupted, UserError
from ban.interfaces import Batch, Output, Progress, Step, Teacher
from ban.launch.command import execute
from ban.launch.execute import InProcess
from ban.models import SmallConv
from ban.plan.lineage import lineage
from ban.plan.stage import Parent, Stage
from ban.schedules import Constant
from ban.settings.compose import CONF, compose_settings
from ban.store.formats import weights_file
from ban.store.store import Store
from ban.training import build, evaluation
from ban.training.device import Device
from ban.training.loop import reseed
from ban.training.measure import check_learned
from ban.training.rehearsal import FakeDevice, fake_tensors
from ban.training.run import run
from ban.training.signals import Signals

METHODS = {path.stem: with_bases(path) for path in sorted((CONF / "method").glob("*.yaml"))}
ON_TEXT = [name for name, node in METHODS.items() if not {"data", "pretrain"} & {*node}]
"""Without views of images, or their features."""
ON_ROWS = ["ban", "ban_l", "labels", "model_compression", "munge"]
"""Enough to see that rows of features go all the way."""
BRIEF = [
    *(
        "annealed",
        "at",
        "byot",
        "cc",
        "crd",
        "cs_kd",
        "dark_knowledge",
        "dist",
        "dkd",
        "dlb",
        "ema",
        "ft",
        "hint",
        "label_smoothing",
        "noisy_student",
        "nst",
        "pkt",
        "prior",
        "ps_kd",
        "rkd",
        "sp",
        "teacher_free",
        "vid",
    ),
]
"""Methods whose losses other tests compare with closed forms or the authors' code. The long tests and those on text
leave them out, for time."""
CONTRACT = [
    *((name, "images") for name in METHODS if name not in BRIEF),
    *((name, "language") for name in ON_TEXT if name not in BRIEF),
    *((name, "tabular") for name in ON_ROWS),
]
TAUGHT = [
    (name, kind) for name, kind in CONTRACT if METHODS[name].get("teacher_count") and "pretrain" not in METHODS[name]
]
every_method = pytest.mark.parametrize(("method", "kind"), [*CONTRACT, *((name, "images") for name in BRIEF)])
every_method_at_length = pytest.mark.parametrize(
    ("method", "kind"),
    [
        pytest.param(
            *each, marks=pytest.mark.long if each[1] == "language" and each[0] not in ("ban_l", "labels") else ()
        )
        for each in CONTRACT
    ],
)
every_taught_method = pytest.mark.parametrize(("method", "kind"), TAUGHT)
NEEDS = {
    "at": ("method.terms.layers.layers=[stage1,stage2]",),
    "noisy_student": ("dataset.train_size=200", "dataset.labelled=100", "dataset.test_size=1000"),
    "nst": ("method.terms.layers.layers=[stage1,stage2]",),
    "sp": ("method.terms.layers.layers=[stage2]",),
    "vid": ("method.terms.layers.layers=[stage1,stage2]",),
    "ft": ("method.pretrain.terms.factors.layer=stage2",),
    "fsp": ("model=wrn_10_1", "recipe.optimizer.lr=0.01"),
    "munge": ("method.data.munge.multiplier=1",),  # with ten, an epoch would be as long as eleven
}
"""What a method cannot do without, or without which a test would take long."""

# The loss in the student's first five steps, from the formulas as they are now. A change of these numbers means
# that a component computes something else: raise its version in VERSIONS, so that old results stay apart.
TRACES: dict[str, list[float]] = json.loads((Path(__file__).parent / "traces.json").read_text())


def trace(outputs: Path, result: dict) -> list[float]:
    terms = METHODS[result["method"]]["terms"]
    return [sum(record[term] for term in terms) for record in curves(outputs, result["signature"])]


FIVE_STEPS = ("recipe.epochs=5", "recipe.steps_per_epoch=1")
LEARNED = {
    "images": ("recipe.epochs=100",),
    "language": ("recipe.epochs=12", "model.dropout=0.1", "recipe.optimizer.lr=10"),
    "tabular": ("recipe.epochs=100",),
}
FALL = {"images": 0.99, "language": 0.999, "tabular": 0.99}  # permuted among 60 words, a teacher leaves little to learn


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for several tests: what methods share, such as teachers, is trained once."""
    return tmp_path_factory.mktemp("shared")


@every_method
def test_the_first_losses_are_what_they_were(method: str, kind: str, train: Train, shared: Path) -> None:
    """And the published metric is that of the published weights."""
    options = (f"method={method}", *NEEDS.get(method, ()), *FIVE_STEPS)
    result = train(*options, f"machine.outputs={shared}", kind=kind)[-1]
    assert trace(shared, result) == pytest.approx(TRACES[f"{kind} {method}"], rel=1e-3)
    metric = f"test_{result['metric']}"
    assert result[metric] == pytest.approx(recomputed(shared, *options, kind=kind)[metric], rel=1e-6)


def recomputed(outputs: Path, *options: str, kind: str) -> dict[str, float]:
    """The test metrics of a plan's last stage, from its files alone."""
    settings = compose_settings([*KINDS[kind], *options])
    stage = lineage(settings)[-1]
    data = build.data(stage, settings.machine, torch.device("cpu"))
    measured = []
    for name in stage.reported_networks:
        network = build.network(stage, Parent(stage, name).index, data.spelling)
        network.load_state_dict(load_file(outputs / "stages" / stage.signature / weights_file(name)))
        measured.append(evaluation.measure({"test": evaluation.predict(network, data, "test", lambda: None)}))
    return evaluation.mean(measured)


CHARACTERS = ("model=cnn_lstm_small", "model.filters=[4,4]", "model.units=16", "model.layers=1")


@pytest.mark.parametrize("select", ["best_validation", "null"])
def test_the_published_numbers_of_characters_are_those_of_the_weights(
    select: str, train: Train, tmp_path: Path
) -> None:
    options = (*CHARACTERS, "method=labels", "recipe.epochs=3", f"recipe.select={select}")
    result = train(*options, kind="language")[-1]
    again = recomputed(tmp_path, *options, kind="language")
    assert result["test_perplexity"] == pytest.approx(again["test_perplexity"], rel=1e-6)


class Remembers(SmallConv):
    """Computes with a value that its weights do not determine: every other network gives opposite logits."""

    signs = itertools.cycle([1, -1])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sign = next(self.signs)

    def forward(self, inputs: torch.Tensor, state: object = None, until: str | None = None) -> Output:
        output = super().forward(inputs, state, until)
        return output._replace(logits=output.logits * self.sign)


@pytest.mark.parametrize("select", ["best_validation", "null"])
def test_a_network_with_hidden_values_is_not_published(
    select: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ban.models.SmallConv", Remembers)
    with pytest.raises(UserError, match="state_dict"):
        train(
            "method=labels",
            *FIVE_STEPS,
            f"recipe.select={select}",
            "dataset.validation_size=100",
            "dataset.test_size=1000",
        )
    assert not list((tmp_path / "stages").iterdir())


@pytest.mark.parametrize("model", ["wrn_10_1", "densenet_40_12"])
def test_the_first_losses_of_other_networks_are_what_they_were(model: str, train: Train, tmp_path: Path) -> None:
    result = train(f"model={model}", "method=labels", "recipe.batch_size=8", *FIVE_STEPS)[-1]
    # Three steps: later ones of a network that deep differ between the instructions of CPUs.
    assert trace(tmp_path, result)[:3] == pytest.approx(TRACES[model][:3], rel=1e-3)


@every_method_at_length
def test_the_loss_falls_and_every_term_is_logged(method: str, kind: str, train: Train, shared: Path) -> None:
    options = (f"method={method}", *LEARNED[kind], *NEEDS.get(method, ()))
    stages = train(*options, f"machine.outputs={shared}", kind=kind)
    for result in stages:
        records = curves(shared, result["signature"])
        terms = json.loads((shared / "stages" / result["signature"] / "stage.json").read_text())["method"]["terms"]
        assert {*terms} <= {*records[0]}
        first, last = (
            sum(record[term] for term in terms if "_target_" not in str(terms[term]["weight"]))
            for record in (records[0], records[-1])
        )
        assert last < FALL[kind] * first
    result = stages[-1]
    assert result["test_perplexity"] < 60 if kind == "language" else result["test_error_percent"] < 50  # of 60 words


class StopsAt(Signals):
    """As if a signal arrived at the n-th look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def check(self) -> None:
        self.looks -= 1
        if not self.looks:
            raise Interrupted(15)


@every_method
def test_it_resumes_bit_for_bit_with_all_its_state(method: str, kind: str, shared: Path) -> None:
    """Interrupted half-way, in the middle of an epoch, when memories, averages and regressors are more than zeros."""
    steps = ("recipe.epochs=4", "recipe.steps_per_epoch=3")
    _check_resume([*KINDS[kind], f"method={method}", *steps, *NEEDS.get(method, ())], shared)


@pytest.mark.parametrize(("recipe", "method"), [("laine_aila", "labels"), ("mean_teacher", "mean_teacher")])
def test_adam_with_a_changing_momentum_resumes_bit_for_bit(recipe: str, method: str, tmp_path: Path) -> None:
    steps = ("recipe.epochs=4", "recipe.steps_per_epoch=3", "recipe.batch_size=32")
    _check_resume([*DIGITS, f"recipe={recipe}", f"method={method}", *steps], tmp_path)


@pytest.mark.parametrize(
    "network",
    [
        ("model=torchvision", "model.architecture=efficientnet_b0", "+model.stochastic_depth_prob=0.5"),
        ("model=timm", "model.architecture=test_efficientnet", "+model.drop_path_rate=0.5", "+model.drop_rate=0.5"),
    ],
)
def test_dropped_layers_of_other_libraries_resume_bit_for_bit(network: tuple[str, ...], tmp_path: Path) -> None:
    steps = ("recipe.epochs=2", "recipe.steps_per_epoch=3", "recipe.batch_size=8", "dataset.test_size=20")
    _check_resume([*DIGITS, *network, *steps, "method=mean_teacher"], tmp_path)


def _check_resume(options: list[str], outputs: Path) -> None:
    settings = compose_settings(options)
    whole, broken = (host(settings)._replace(store=Store(outputs / name)) for name in ("whole", "broken"))
    for stage in lineage(settings):
        if broken.store.has(stage.signature):
            continue  # a teacher that another test has interrupted
        run(stage, whole, quiet, Signals())
        with pytest.raises(Interrupted):
            run(stage, broken, quiet, StopsAt(2 * stage.recipe.epochs + 1))
        run(stage, broken, quiet, Signals())
        for file in sorted(whole.store.folder(stage.signature).glob("weights*")):
            other = broken.store.folder(stage.signature) / file.name
            assert file.read_bytes() == other.read_bytes(), file.name


@every_taught_method
def test_the_student_depends_on_its_teachers_and_leaves_them_as_they_are(
    method: str, kind: str, train: Train, shared: Path, tmp_path: Path
) -> None:
    options = (f"method={method}", *FIVE_STEPS)
    *teachers, student = plan(*options, kind=kind)
    good = train(*options, f"machine.outputs={shared}", kind=kind)[-1]
    assert good["teachers"] == [teacher.signature for teacher in teachers] and student.generation == 1
    first = weights(shared, good["signature"])
    for teacher in good["teachers"]:
        shutil.copytree(shared / "stages" / teacher, tmp_path / "stages" / teacher)
    path = tmp_path / "stages" / good["teachers"][0] / "weights.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(path).items()}, path)
    sums, digest = path.with_name("SHA256SUMS"), hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(re.sub(rf"\w+(?=  {path.name}$)", digest, sums.read_text(), flags=re.M))
    before = [weights(tmp_path, teacher.signature) for teacher in teachers]
    spoilt = train(*options, kind=kind)[-1]
    assert weights(tmp_path, spoilt["signature"]) != first
    assert [weights(tmp_path, teacher.signature) for teacher in teachers] == before


@every_method
def test_gradients_reach_the_students_and_never_a_frozen_teacher(method: str, kind: str) -> None:
    for stage in plan(f"method={method}", *NEEDS.get(method, ()), kind=kind):
        _check_gradients(stage)


def _check_gradients(stage: Stage) -> None:
    networks = {parent: build.network(parent.stage) for parent in stage.teachers}

    def load(parent: Parent) -> nn.Module:
        return networks.get(parent) or build.network(parent.stage)

    step = build.training_step(stage, load, Device("cpu"), None)
    learners, teacher = step.learners, step.teacher
    batch, start = build.zero_batch(stage, torch.device("cpu"), 8), Progress(1, 0, 1, 2)
    batch = batch._replace(views=tuple(torch.rand_like(v) if v.is_floating_point() else v for v in batch.views))
    for turn, learner in enumerate(learners):
        learner.network.train()
        outputs = [each(batch.views[0]) for each in learners]
        teacher_output = teacher.targets(Step(batch, learners, outputs, turn, start))
        terms = learner.objective(outputs[turn], teacher_output, batch, start)
        torch.stack([*terms.values()]).sum().backward()
        reached = [parameter.grad is not None for parameter in learner.network.parameters()]
        trained = [each for each in learner.objective.parameters() if each.requires_grad]
        assert all(parameter.grad is not None for parameter in trained)
        if stage.method.name == "ft_paraphraser":  # learns without the student
            assert trained and not any(reached)
        else:
            assert any(reached) if stage.is_pretraining else all(reached)
    assert not any(parameter.requires_grad for network in networks.values() for parameter in network.parameters())


def test_the_teacher_sees_the_students_view_in_evaluation_mode() -> None:
    guide = SmallConv(classes=10)
    teacher = frozen(guide.train())
    images = torch.rand(8, 1, 8, 8)
    batch = Batch((images, torch.rand_like(images)), torch.zeros(8, dtype=torch.long), torch.arange(8))
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    teacher_output = teacher.targets(Step(batch, [], [], 0, Progress(0, 0, 1, 1)))
    assert teacher_output.logits is not None and torch.equal(teacher_output.logits, guide(images).logits)
    assert all(torch.equal(before[name], value) for name, value in guide.state_dict().items())


class TestWhatFailsSilentlyElsewhere:
    batch = Batch((torch.rand(4, 1, 8, 8),), torch.arange(4), torch.arange(4))

    def step(self, *learners: object) -> Step:
        return Step(self.batch, learners, [], 0, Progress(0, 0, 1, 1))  # pyright: ignore[reportArgumentType]

    def test_a_teacher_in_training_mode(self) -> None:
        teacher = frozen(SmallConv(classes=10))
        teacher.networks[0].train()
        with pytest.raises(RuntimeError, match="training mode"):
            teacher.targets(self.step())

    def test_a_teacher_that_is_the_student(self) -> None:
        learner = SimpleNamespace(network=SmallConv(classes=10))
        with pytest.raises(RuntimeError, match="student itself"):
            frozen(learner.network).targets(self.step(learner))

    def test_a_method_without_its_teacher(self) -> None:
        term = build.objective(plan()[-1])
        with pytest.raises(ValueError, match="needs a teacher"):
            term(Output(torch.rand(4, 10), {}), Teacher().targets(self.step()), self.batch, Progress(0, 0, 1, 1))

    def test_a_student_that_starts_where_its_teacher_started(self) -> None:
        def first_weights(stage) -> torch.Tensor:
            reseed(build_seed(stage))
            return next(build.network(stage).parameters())

        from ban.streams import stream as hashed

        def build_seed(stage) -> int:
            return hashed(*stage.stream_key, "initial")

        stages = [*plan("generations=3"), *plan("seed=1"), *plan("replica=1")[1:]]
        starts = [first_weights(stage) for stage in stages]
        for index, start in enumerate(starts):
            assert not any(torch.equal(start, other) for other in starts[:index])

    def test_a_diverged_training_is_not_published(self, train: Train, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"lower recipe\.optimizer\.lr"):
            train("method=labels", "recipe.optimizer.lr=1e20", "recipe.epochs=3")
        assert not list((tmp_path / "stages").iterdir())


def test_a_training_that_learns_less_than_a_guess_is_not_published(train: Train, tmp_path: Path) -> None:
    """Its losses are finite numbers, but nothing good comes of such a teacher."""
    with pytest.raises(UserError, match="worse than that of a uniform guess among 62 classes"):
        train("method=labels", "recipe.epochs=1", "recipe.optimizer.lr=1000", kind="language")
    assert not list((tmp_path / "stages").iterdir())


def test_the_best_epoch_is_published_though_later_ones_diverge(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics of the last epoch are infinite then, and files hold finite numbers only."""
    monkeypatch.setattr(Constant, "__call__", lambda _, progress: 1e9 if progress.epoch == 2 else 1.0)
    options = ("recipe.epochs=3", "recipe.select=best_validation", "recipe.clip_norm=null")
    (result,) = train("method=labels", "recipe.schedule={_target_: ban.schedules.Constant}", *options, kind="language")
    assert result["selected_epoch"] < 3 and math.isfinite(result["test_perplexity"])
    assert "perplexity" not in " ".join(result["networks"]["last"])


def test_each_network_of_a_cohort_must_have_learned_something() -> None:
    stage = plan("method=deep_mutual_learning")[0]
    check_learned(stage, 50.0)
    with pytest.raises(UserError, match="worse than that of a uniform guess"):
        check_learned(stage, 96.0)


def test_an_ensemble_of_teachers_speaks_as_the_mean_probability() -> None:
    networks = [SmallConv(classes=10) for _ in range(3)]
    batch = Batch((torch.rand(4, 1, 8, 8),), torch.arange(4), torch.arange(4))
    step = Step(batch, [], [], 0, Progress(0, 0, 1, 1))
    teacher_output = frozen(*networks).targets(step)
    mean = torch.stack([network(batch.views[0]).logits.softmax(-1) for network in networks]).mean(0)
    assert teacher_output.logits is not None
    torch.testing.assert_close(teacher_output.logits.softmax(-1), mean)
    logits = frozen(*networks, average="logits").targets(step).logits
    assert logits is not None
    torch.testing.assert_close(logits, torch.stack([n(batch.views[0]).logits for n in networks]).mean(0))


def test_dkpp_and_ban_differ_although_they_share_all_randomness(train: Train, tmp_path: Path) -> None:
    ban, dkpp = (trace(tmp_path, train(f"method={name}", *FIVE_STEPS)[-1]) for name in ("ban", "dkpp"))
    assert all(abs(one - other) > 1e-4 for one, other in zip(ban, dkpp, strict=True))


def test_the_result_has_what_scripts_rely_on(train: Train, tmp_path: Path) -> None:
    result = train(
        "recipe.epochs=4", "recipe.evaluate_every=2", "dataset.validation_size=100", "dataset.test_size=1000"
    )[1]
    promised = {
        "generation": 1,
        "method": "ban",
        "model": "small_conv",
        "dataset": "digits",
        "recipe": "digits",
        "seed": 0,
        "parameters": 1442,
        "epochs": 4,
        "device": "cpu",
    }
    assert promised.items() <= result.items()
    assert result["seconds"] > 0 and len(result["teachers"]) == 1
    assert 0.05 <= result["fitted_temperature"] <= 20  # there is a validation set
    assert result["best_on_test"]["epoch"] in (2, 4) and result["best_on_validation"]["epoch"] in (2, 4)
    folder = tmp_path / "stages" / result["signature"]
    assert result["peak_memory_mib"] > 100
    names = {
        "SHA256SUMS",
        "stage.json",
        "result.json",
        "weights.safetensors",
        "curves.jsonl",
        "predictions.safetensors",
    }
    assert {path.name for path in folder.iterdir()} == names
    predictions = load_file(folder / "predictions.safetensors")
    error = (predictions["log_probabilities"].argmax(-1) != predictions["targets"]).float().mean()
    assert 100 * float(error) == pytest.approx(result["test_error_percent"])
    assert predictions["log_probabilities"].dtype == torch.float32


def test_weights_are_byte_identical_for_identical_trainings(tmp_path: Path) -> None:
    stage = plan("method=labels", *FIVE_STEPS)[0]
    for name in ("one", "two"):
        settings = compose_settings([*DIGITS, f"machine.outputs={tmp_path / name}"])
        run(stage, host(settings), quiet, Signals())
    assert weights(tmp_path / "one", stage.signature) == weights(tmp_path / "two", stage.signature)


def test_half_precision_does_not_round_the_outputs(train: Train, tmp_path: Path) -> None:
    """Rounded to bf16, the largest of a hundred logits are often equal, and the class number decides."""
    result = train("method=labels", "recipe.precision=bf16", *FIVE_STEPS)[0]
    predictions = load_file(tmp_path / "stages" / result["signature"] / "predictions.safetensors")
    probabilities = predictions["log_probabilities"]
    assert not torch.equal(probabilities, probabilities.bfloat16().float())
    top = probabilities.topk(2, -1).values
    assert (top[:, 0] > top[:, 1]).all()


@pytest.mark.parametrize(
    "model", ["small_conv", "wrn_10_1", "densenet_40_12", "torchvision", "timm", "mlp_16", "lstm_small"]
)
def test_logits_are_fp32_under_autocast(model: str) -> None:
    kind = {"mlp_16": "tabular", "lstm_small": "language"}.get(model, "images")
    stage = plan(f"model={model}", "method=labels", kind=kind)[0]
    with fake_tensors(), FakeDevice("cpu").precision("bf16"):
        output = build.network(stage)(build.zero_batch(stage, torch.device("cpu")).views[0])
    assert output.logits.dtype == torch.float32


def test_half_precision_and_tensorboard(train: Train, tmp_path: Path) -> None:
    result = train("method=labels", "recipe.precision=bf16", "machine.trackers=[tensorboard]", *FIVE_STEPS)[0]
    assert result["precision"] == "bf16"
    assert list((tmp_path / "tensorboard").rglob("events.*"))


def test_half_precision_without_its_instructions_is_refused_for_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "emulates_bf16", True)
    settings = compose_settings([*LANGUAGE, "recipe.precision=bf16"])
    with pytest.raises(SystemExit, match=r"use recipe\.precision=fp32"):
        execute([settings], InProcess)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_learns_a_language_and_repeats_itself(train: Train, tmp_path: Path) -> None:
    on_gpu = ("machine.device=cuda", "method=ban_l")
    cpu = train("method=ban_l", kind="language")[-1]
    gpu = train(*on_gpu, f"machine.outputs={tmp_path / 'gpu'}", kind="language")[-1]
    again = train(*on_gpu, f"machine.outputs={tmp_path / 'again'}", kind="language")[-1]
    assert gpu["test_perplexity"] == pytest.approx(cpu["test_perplexity"], rel=0.1)
    assert again["test_perplexity"] == pytest.approx(gpu["test_perplexity"], rel=1e-3)  # the same dropout masks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_learns_what_a_cpu_learns(train: Train, tmp_path: Path) -> None:
    cpu = train("recipe.epochs=100")[-1]
    gpu = train("recipe.epochs=100", "machine.device=cuda", f"machine.outputs={tmp_path / 'gpu'}")[-1]
    assert gpu["test_error_percent"] == pytest.approx(cpu["test_error_percent"], abs=5)
