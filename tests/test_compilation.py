"""A compiled training step is one graph for every method and network, and computes what the eager step does.

Dynamo traces the step, and torch runs what was traced (`backend="eager"`): that needs no C++ compiler, and no minute.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import jaxtyping
import pytest
import torch
from helpers import DIGITS, host, plan
from safetensors.torch import load_file
from test_train import CONTRACT, NEEDS, StopsAt
from torch import nn
from torch._dynamo.utils import counters

from ban.errors import Interrupted, UserError
from ban.events import Event, Noted
from ban.interfaces import Batch, Progress
from ban.plan.lineage import lineage
from ban.plan.stage import Parent, Stage
from ban.settings.compose import compose_settings
from ban.store.formats import weights_file
from ban.store.store import Store
from ban.training import build, compilation
from ban.training.compilation import Compilation, Compiled, obstacle, pays
from ban.training.device import Device
from ban.training.loop import TrainingState, reseed
from ban.training.run import run
from ban.training.signals import Signals
from ban.training.step import TrainingStep

TRACED = [
    ("method=ban_l", "images"),
    ("method=dkpp", "tabular"),
    ("method=cwtm", "tabular"),
    ("method=deep_mutual_learning", "tabular"),
    ("method=fitnets", "images"),
    ("method=pi_model", "images"),
    ("method=temporal_ensembling", "images"),
    ("method=crd", "images"),
    ("method=ft", "method.pretrain.terms.factors.layer=stage2", "images"),
    ("method=mean_teacher", "model=wrn_10_1", "model.dropout=0.3", "images"),
    ("method=labels", "model=densenet_40_12", "model.units=1", "model.dropout=0.3", "images"),
]
NETWORKS = [
    ("model=ban_wrn_1_1", "model.stem=4", "model.widths=[4,4,4]"),
    ("model=ban_pre_resnet_14_half", "model.blocks=1", "model.stem=4", "model.widths=[4,4,4]"),
    ("model=shallow_small",),
    ("model=conv_large",),
    ("model=timm", "model.architecture=test_resnet"),
    ("model=torchvision", "model.small_images=true"),
]
ALL = [
    *((f"method={method}", *NEEDS.get(method, ()), kind) for method, kind in CONTRACT if kind != "language"),
    *(("method=labels", *network, "images") for network in NETWORKS),
]
UNTRACED = {
    compilation.RECURRENT: [("language",), ("model=cnn_lstm_small", "model.filters=[4,4]", "language")],
    compilation.CHECKPOINTED: [("model=densenet_40_12", "model.units=1", "model.checkpointing=true", "images")],
}


@pytest.fixture(autouse=True)
def untyped() -> Iterator[None]:
    """Without the checks of shapes that tests add to functions, which cannot be traced."""
    torch._dynamo.reset()
    counters.clear()
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def step_of(stage: Stage) -> TrainingStep:
    """The same networks for the same stage."""
    torch.manual_seed(0)
    spelling = build.zero_spelling(stage, torch.device("cpu"))

    def load(parent: Parent) -> nn.Module:
        return build.network(parent.stage, parent.index, spelling)

    step = build.training_step(stage, load, Device("cpu"), spelling)
    for learner in step.learners:
        learner.network.train()
    return step


def batch_of(stage: Stage) -> Batch:
    generator = torch.Generator().manual_seed(0)
    batch = build.zero_batch(stage, torch.device("cpu"), 4)
    views = (torch.rand(view.shape, generator=generator) for view in batch.views)
    return batch._replace(views=tuple(views)) if stage.dataset.input_shape else batch


def refuse(text: str) -> None:
    raise AssertionError(text)


def take(step: TrainingStep, batch: Batch) -> list[float]:
    """Three steps in two epochs. Returns all losses."""
    losses = []
    for progress in (Progress(0, 0, 2, 3), Progress(0, 1, 2, 3), Progress(1, 0, 2, 3, (1.0,))):
        reseed(progress.step)
        losses += [value.item() for measured in step(batch, progress) for value in measured.terms.values()]
    return losses


def check_equal(options: tuple[str, ...], backend: str, **settings: object) -> None:
    *overrides, kind = options
    stage = plan(*overrides, kind=kind)[-1]
    eager, compiled, batch = step_of(stage), step_of(stage), batch_of(stage)
    assert obstacle(compiled.networks().values()) is None
    functions = Compiled(compiled, refuse, backend, **settings)
    compiled.functions = functions.forward, functions.losses
    assert take(compiled, batch) == pytest.approx(take(eager, batch), rel=1e-4, abs=1e-6)
    for ours, theirs in zip(compiled.learners, eager.learners, strict=True):
        for (name, mine), other in zip(ours.network.named_parameters(), theirs.network.parameters(), strict=True):
            assert (mine.grad is None) == (other.grad is None), name
            if mine.grad is not None and other.grad is not None:
                torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(ours.network.state_dict(), theirs.network.state_dict(), rtol=1e-3, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == (1 if len(eager.learners) == 1 else 2 * len(eager.learners) - 1)


@pytest.mark.parametrize("options", TRACED, ids=" ".join)
def test_a_step_is_one_graph_that_stays_valid_and_computes_the_same(options: tuple[str, ...]) -> None:
    check_equal(options, "eager")


@pytest.mark.long
@pytest.mark.parametrize("options", [each for each in ALL if each not in TRACED], ids=" ".join)
def test_every_other_method_and_network_is_one_graph(options: tuple[str, ...]) -> None:
    check_equal(options, "eager")


def test_gradients_from_autograds_own_tracing_are_the_same() -> None:
    check_equal(("method=dkpp", "model.units=4", "tabular"), "aot_eager")


@pytest.mark.long
@pytest.mark.parametrize("options", [("method=dkpp", "tabular"), ("model=wrn_10_1", "model.dropout=0.3", "images")])
def test_what_inductor_generates_computes_the_same_from_the_same_random_numbers(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # restored after the test
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    check_equal(options, "inductor", **compilation.inductor_options("default", 1))
    assert [*(tmp_path / "ban" / "compiled" / "fxgraph").iterdir()]


@pytest.mark.parametrize(("reason", "options"), [(reason, each) for reason in UNTRACED for each in UNTRACED[reason]])
def test_what_is_said_not_to_be_compiled_cannot_be(reason: str, options: tuple[str, ...]) -> None:
    *overrides, kind = options
    stage = plan("method=labels", *overrides, kind=kind)[-1]
    step, reasons = step_of(stage), list[str]()
    assert obstacle(step.networks().values()) == reason
    functions = Compiled(step, reasons.append, "aot_eager")
    step.functions = functions.forward, functions.losses
    step(batch_of(stage), Progress(0, 0, 1, 1))  # the reason comes once, and the step is taken
    step(batch_of(stage), Progress(0, 0, 1, 1))
    assert len(reasons) == 1 and "cannot be compiled" in reasons[0]


# In a training


def test_without_a_compiler_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    overrides = ("recipe.epochs=1", "machine.compile=true", f"machine.outputs={tmp_path}")
    settings, events = compose_settings([*DIGITS, "method=labels", *overrides]), list[Event]()
    run(lineage(settings)[-1], host(settings), events.append, Signals())
    (said,) = (event.text for event in events if isinstance(event, Noted))
    assert said == "warning: machine.compile=true has no effect: it needs a C++ compiler"


STEPS = ("recipe.epochs=4", "recipe.steps_per_epoch=4", "recipe.batch_size=16")


def test_a_training_that_stops_in_a_compiled_epoch_ends_the_same_without_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the other way. Dropout is drawn from the same streams."""
    monkeypatch.setattr(compilation, "inductor_options", lambda *_: {"backend": "aot_eager"})
    options = (*DIGITS, "model=wrn_10_1", "model.dropout=0.3", "method=labels", *STEPS)
    stage = lineage(compose_settings([*options]))[-1]
    found, events = {}, list[Event]()
    for name, first, then in (("eager", False, False), ("first", True, False), ("last", False, True)):
        for compiled, signals in ((first, StopsAt(7)), (then, Signals())):
            settings = compose_settings([*options, f"machine.compile={str(compiled).lower()}"])
            place = host(settings)._replace(store=Store(tmp_path / name))
            with pytest.raises(Interrupted) if isinstance(signals, StopsAt) else nullcontext():
                run(stage, place, events.append, signals)
        found[name] = load_file(place.store.file(stage.signature, weights_file("0")))
    assert sum(isinstance(event, Noted) and event.text.startswith("compiled in") for event in events) == 2
    for name in ("first", "last"):
        torch.testing.assert_close(found[name], found["eager"], rtol=1e-3, atol=1e-5)


class Course:
    """A course of `Compilation` with a clock of its own."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, setting: str, eager: float, compiled: float, steps: int
    ) -> None:
        self.stage, self.said, self.now = plan("method=labels")[-1], list[str](), 0.0
        self.step = step_of(self.stage)
        monkeypatch.setattr(compilation.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(compilation, "missing_program", lambda _: None)
        monkeypatch.setattr(compilation, "inductor_options", lambda *_: {"backend": "eager"})
        machine = compose_settings([*DIGITS, f"machine.compile={setting}"]).machine
        compilation_ = Compilation(machine, Device("cpu"), self.step, [nn.Conv2d(1, 1, 1)], self.said.append)
        state = TrainingState(Progress(0, 0, steps, 1))
        compilation_.begin(state)
        for number in range(60):
            self.now += compiled if self.step.functions else eager
            self.now += 20 * (self.step.functions is not None and not self.said and number == 13)
            state.progress = state.progress._replace(step=number + 1)
            compilation_.after_step()
        self.is_compiled = self.step.functions is not None


def test_auto_keeps_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, "auto", eager=1.0, compiled=0.5, steps=10_000)
    assert course.is_compiled and course.said == ["compiled in 19 s; 2.0 × as fast"]
    course = Course(monkeypatch, "auto", eager=1.0, compiled=2.0, steps=10_000)
    assert not course.is_compiled and course.said == ["compiled in 22 s; 0.5 × as fast; it continues without"]


def test_auto_leaves_short_trainings_and_what_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Course(monkeypatch, "auto", eager=1.0, compiled=0.5, steps=60).said
    monkeypatch.setattr(compilation, "obstacle", lambda _: "no")
    assert not Course(monkeypatch, "auto", eager=1.0, compiled=0.5, steps=10_000).said
    assert Course(monkeypatch, "true", 1.0, 0.5, 60).said == ["warning: machine.compile=true has no effect: no"]


def test_it_pays_where_the_expected_saving_is_larger_than_the_expected_time() -> None:
    cost = compilation.SECONDS + 20 * compilation.SECONDS_PER_LAYER
    steps = cost / (0.1 * (1 - 1 / compilation.GAIN))
    assert pays(int(steps * 1.01), 0.1, 20) and not pays(int(steps * 0.99), 0.1, 20)


@pytest.mark.parametrize("value", ["maybe", "1"])
def test_only_three_values(value: str) -> None:
    with pytest.raises(UserError, match=r"machine\.compile"):
        compose_settings([*DIGITS, f"machine.compile={value}"])


def test_without_a_home_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "relative")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    compilation.use_cache()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ and not [*tmp_path.iterdir()]
