"""Small trainings of one kind that take each step together."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import DIGITS, curves, flip_a_bit, host, plan, quiet
from safetensors.torch import load_file

from ban.errors import Interrupted, UserError
from ban.events import Event, Running, Started
from ban.launch.devices import Slot
from ban.launch.pool import Pool
from ban.plan.stage import Stage
from ban.settings.compose import compose_settings
from ban.store.store import Store
from ban.training.bundle import carries, kind, optimizer_of, take_together
from ban.training.device import Device
from ban.training.loop import Steps
from ban.training.run import run, steps_to_result
from ban.training.signals import Signals

SEEDS = (1, 2, 3)


def stages_of(*overrides: str) -> list[list[Stage]]:
    """The stages of each generation, in all seeds."""
    return [[*each] for each in zip(*(plan(*overrides, f"seed={seed}") for seed in SEEDS), strict=True)]


def train_alone(folder: Path, stages: list[Stage]) -> None:
    for stage in stages:
        run(stage, host(compose_settings([*DIGITS, f"machine.outputs={folder}"])), quiet, Signals())


def steps_of(
    folder: Path, stage: Stage, errors: dict[str, str], signals: Signals, *overrides: str, report: Any = quiet
) -> Steps[None]:
    machine = host(compose_settings([*DIGITS, f"machine.outputs={folder}", *overrides]))
    try:
        yield from steps_to_result(stage, machine, report, signals)
    except (UserError, Interrupted) as error:
        errors[stage.signature] = str(error)


def train_together(folder: Path, stages: list[Stage], *overrides: str, **options: Any) -> dict[str, str]:
    """Trains stages of one kind as a bundle. Returns the reasons of those that fail."""
    errors, signals = dict[str, str](), options.pop("signals", Signals())
    trainings = {each.signature: steps_of(folder, each, errors, signals, *overrides, **options) for each in stages}
    take_together(trainings, optimizer_of(stages[0]))
    return errors


def weights_of(folder: Path, stage: Stage) -> dict[str, torch.Tensor]:
    return load_file(folder / "stages" / stage.signature / "weights.safetensors")


def check_twins(together: Path, alone: Path, stage: Stage) -> None:
    mine, twin = (curves(folder, stage.signature) for folder in (together, alone))
    for record, expected in [*zip(mine, twin, strict=True)][:3]:
        del record["seconds"], expected["seconds"]
        assert record == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(weights_of(together, stage), weights_of(alone, stage), rtol=1e-2, atol=1e-3)
    results = [Store(folder).result(stage.signature) for folder in (together, alone)]
    assert results[0]["test_error_percent"] == pytest.approx(results[1]["test_error_percent"], abs=0.2)


ADAM = "recipe.optimizer={_target_: torch.optim.AdamW, lr: 0.01, weight_decay: 0.1}"


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=labels", "dataset.label_noise=0.2"],
        ["method=ban_l", "recipe.clip_norm=0.5"],
        *(
            pytest.param(overrides, marks=pytest.mark.long)
            for overrides in (
                ["method=ban"],
                ["method=cwtm", ADAM],
                ["method=labels", "model=mlp_16", "dataset=digits_features", "dataset.train_size=100"],
            )
        ),
    ],
    ids=" ".join,
)
def test_each_training_of_a_bundle_is_its_lonely_twin(overrides: list[str], tmp_path: Path) -> None:
    for stages in stages_of(*overrides, "recipe.epochs=4"):
        assert carries(stages[0], Device("cpu"))
        train_alone(tmp_path / "alone", stages)
        assert not train_together(tmp_path / "together", stages)
        for stage in stages:
            check_twins(tmp_path / "together", tmp_path / "alone", stage)
    first, second, _ = (weights_of(tmp_path / "together", stage) for stage in stages)
    assert any(not torch.allclose(first[name], second[name], rtol=0.1) for name in first)


def test_a_bundle_carries_neither_random_numbers_in_a_step_nor_state_beside_the_weights() -> None:
    for overrides in (["method=mean_teacher"], ["method=pi_model"], [f"recipe.optimizer={LBFGS}"]):
        assert not carries(plan(*overrides)[-1], Device("cpu")), overrides


LBFGS = "{_target_: torch.optim.Adagrad, lr: 0.1}"


def test_only_stages_alike_and_small_are_bundled() -> None:
    machine = compose_settings([*DIGITS]).machine

    def kind_of(*overrides: str, device_type: str | None = "cpu") -> object:
        return kind(plan("method=labels", *overrides)[-1], machine, device_type)

    assert kind_of("seed=1") == kind_of("seed=2", "replica=1") is not None
    assert len({kind_of(), kind_of("recipe.epochs=7"), kind_of("dataset.train_size=90"), kind_of("model.width=9")}) == 4
    assert kind_of("model.width=99") is None and kind_of("model.width=99", device_type=None) is not None
    assert kind_of("recipe.precision=bf16") is None
    assert kind_of("recipe.select=best_validation", "dataset.validation_size=50", "dataset.test_size=1000") is None


def first_steps(number: int, then: Callable[[], object]) -> Callable[[Event], None]:
    """A report that does something at the first event after so many."""
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if len(events) == number:
            then()

    return report


def test_a_failing_member_leaves_the_others_alone(tmp_path: Path) -> None:
    teachers, students = stages_of("method=ban", "recipe.epochs=4")
    for name in ("alone", "together"):
        train_alone(tmp_path / name, teachers)
    flip_a_bit(tmp_path / "together" / "stages" / teachers[1].signature / "weights.safetensors")
    errors = train_together(tmp_path / "together", students)
    assert [*errors] == [students[1].signature] and "weights.safetensors" in errors[students[1].signature]
    train_alone(tmp_path / "alone", [students[0], students[2]])
    for stage in (students[0], students[2]):
        check_twins(tmp_path / "together", tmp_path / "alone", stage)


def test_a_diverging_member_leaves_the_others_alone(tmp_path: Path) -> None:
    (stages,) = stages_of("method=labels", "recipe.epochs=4")
    errors, signals = dict[str, str](), Signals()

    def spoilt(steps: Steps[None]) -> Steps[None]:
        due = next(steps)
        due.training.step.learners[0].network.head.bias.data.fill_(math.nan)  # pyright: ignore
        while True:
            try:
                due = steps.send((yield due))
            except StopIteration:
                return

    together = {each.signature: steps_of(tmp_path / "together", each, errors, signals) for each in stages}
    together[stages[0].signature] = spoilt(together[stages[0].signature])
    take_together(together, optimizer_of(stages[0]))
    assert [*errors] == [stages[0].signature] and "not a finite number in epoch 1" in errors[stages[0].signature]
    train_alone(tmp_path / "alone", stages[1:])
    for stage in stages[1:]:
        check_twins(tmp_path / "together", tmp_path / "alone", stage)


@pytest.mark.parametrize("optimizer", ["method=labels", ADAM], ids=["SGD", "AdamW"])
def test_stopped_members_resume_from_different_steps_and_catch_up(optimizer: str, tmp_path: Path) -> None:
    (stages,) = stages_of("method=labels", optimizer, "recipe.epochs=4")
    errors, signals = dict[str, str](), Signals()
    together = [steps_of(tmp_path / "together", each, errors, signals) for each in stages]
    for number, steps in enumerate(together, 2):
        due = next(steps)
        for _ in range(number):
            due = steps.send(due.training.step(due.batch, due.progress))
        signals.number = signal.SIGTERM
        with pytest.raises(StopIteration):
            steps.send(due.training.step(due.batch, due.progress))
        signals.number = 0
    steps_saved = {int(path.name.split("-")[1]) for path in (tmp_path / "together").glob("work/*/checkpoint-*")}
    assert steps_saved == {3, 4, 5}
    assert not train_together(tmp_path / "together", stages)
    train_alone(tmp_path / "alone", stages)
    for stage in stages:
        check_twins(tmp_path / "together", tmp_path / "alone", stage)


def test_a_signal_saves_every_member_without_the_others_tensors_and_each_resumes_alone(tmp_path: Path) -> None:
    (stages,) = stages_of("method=labels", "recipe.epochs=4")
    signals = Signals()
    report = first_steps(3, lambda: setattr(signals, "number", signal.SIGTERM))
    errors = train_together(tmp_path / "together", stages, signals=signals, report=report)
    assert len(errors) == 3 and all("stopped by signal" in error for error in errors.values())
    saved = sorted((tmp_path / "together").glob("work/*/checkpoint-*"))
    assert len(saved) == 3
    for path in saved:
        content = torch.load(path, weights_only=True)
        tensors = [*content["learners"][0]["network"].values()]
        tensors += [each["momentum_buffer"] for each in content["learners"][0]["optimizer"]["state"].values()]
        assert len(tensors) > 10 and all(each.untyped_storage().nbytes() == each.nbytes for each in tensors)
    train_alone(tmp_path / "together", stages)
    train_alone(tmp_path / "alone", stages)
    for stage in stages:
        check_twins(tmp_path / "together", tmp_path / "alone", stage)


@pytest.mark.long
def test_a_killed_bundle_goes_on_with_each_stage_alone(tmp_path: Path) -> None:
    stages = [stage for seed in range(4) for stage in plan("method=labels", "recipe.epochs=40", f"seed={seed}")]
    settings = compose_settings([*DIGITS, f"machine.outputs={tmp_path}", "machine.checkpoint_seconds=0"])
    processes: dict[int, list[Started]] = {}
    killed: list[int] = []

    def report(event: Event) -> None:
        running = {child.stage.signature: child.process.pid or 0 for child in pool.running}
        if isinstance(event, Started):
            processes.setdefault(running[event.signature], []).append(event)
        if isinstance(event, Running) and event.fraction > 0.1 and not killed:
            killed.append(running[event.signature])
            os.kill(killed[0], signal.SIGKILL)

    kinds = {stage.signature: kind(stage, settings.machine, "cpu") for stage in stages}
    pool = Pool(stages, host(settings), [Slot("cpu")], report, None, kinds, 16)
    assert not pool.run()
    together, *alone = processes.values()
    assert {event.signature for event in together} == {stage.signature for stage in stages}
    assert [len(events) for events in alone] == [1] * 4 and all(events[0].fraction > 0 for events in alone)
    assert sorted(Store(tmp_path).finished()) == sorted(stage.signature for stage in stages)
