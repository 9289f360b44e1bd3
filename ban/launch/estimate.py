"""What a plan would cost on this machine: a few steps of each kind of training are timed, and files are counted."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from ban.errors import UserError
from ban.interfaces import Batch, Progress
from ban.launch.pool import longest_paths
from ban.plan.stage import Parent, Stage
from ban.settings.schema import plain
from ban.store.store import Store
from ban.training import build
from ban.training.loop import Position, Training
from ban.training.machine import Machine

STEPS, SECONDS = 5, 1.0
"""So many steps are timed after a first one, or as many as this time takes."""
CPU_OPERATIONS = 1e11
"""A timed step on a CPU has about so many at most: a part of a batch stands for the batch there."""


class Disk(NamedTuple):
    """Bytes of one training."""

    kept: int
    """In the store."""
    temporary: int
    """Its checkpoints, while it is trained."""


class Estimate(NamedTuple):
    """Of a plan."""

    seconds: float
    """Of all trainings, one after another."""
    longest: float
    """Seconds of the longest chain of teachers and students: no number of devices is faster."""
    kept: int
    temporary: int
    """Bytes of the largest training's checkpoints."""
    kinds: int
    """How many different trainings were timed."""


def estimate(
    stages: Sequence[Stage], machine: Machine, track: Callable[[Iterable[Stage]], Iterable[Stage]]
) -> Estimate:
    """The cost of the stages, which stand in an order in which they can be trained; `track` shows the progress.

    Raises:
        UserError: one does not fit into the device's memory.
    """
    by_kind = {_kind(stage): stage for stage in stages}
    speeds = {_kind(stage): examples_per_second(stage, machine) for stage in track([*by_kind.values()])}
    seconds = {stage.signature: _evaluated_too(stage) / speeds[_kind(stage)] for stage in stages}
    chains = longest_paths(stages, lambda stage: seconds[stage.signature])
    space = [disk(stage) for stage in stages]
    return Estimate(
        seconds=sum(seconds.values()),
        longest=max(chains.values(), default=0.0),
        kept=sum(each.kept for each in space),
        temporary=max((each.temporary for each in space), default=0),
        kinds=len(by_kind),
    )


def _kind(stage: Stage) -> str:
    """What the time of a step depends on."""
    teachers = [parent.stage.model for parent in stage.teachers]
    recipe = [getattr(stage.recipe, name) for name in ("batch_size", "unroll", "precision", "optimizer")]
    sizes = [getattr(stage.dataset, name, None) for name in ("classes", "shape", "features", "views")]
    method = [getattr(stage.method, name) for name in ("terms", "teacher", "until")]
    return json.dumps(plain([stage.models, method, teachers, recipe, sizes]))


def examples_per_second(stage: Stage, machine: Machine) -> float:
    """Training images, rows or words per second, measured with an imagined batch.

    Raises:
        UserError: the training does not fit into the device's memory.
    """
    device, recipe = machine.prepare(), stage.recipe
    size = recipe.batch_size
    if device.type == "cpu":
        operations = build.check_shapes(stage).training_flops * size * (recipe.unroll or 1)
        size = max(2, min(size, int(size * CPU_OPERATIONS / max(1.0, operations))))
    try:
        training, batch = _imagined(stage, machine, device, size)
        return batch.targets.numel() / _seconds_a_step(training, batch, device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{stage.label}, {stage.model.title}, does not fit into the memory of {device}.") from error


def _imagined(stage: Stage, machine: Machine, device: torch.device, size: int) -> tuple[Training, Batch]:
    """A training as it would be, with fresh teachers and a batch of zeros."""
    dataset, recipe = stage.dataset, stage.recipe
    spelling = torch.zeros(dataset.classes, getattr(dataset, "word_length", 0), dtype=torch.long, device=device)

    def load(parent: Parent) -> nn.Module:
        return build.network(parent.stage, parent.index, spelling).to(device)

    learners, teacher = build.assemble(stage, load, device, spelling, stage.training_examples)
    for learner in learners:
        learner.optimizer = build.optimizer(stage, learner)
        learner.network.train()
    training = Training(
        key=stage.stream_key,
        learners=learners,
        teacher=teacher,
        data=None,  # pyright: ignore[reportArgumentType]  # only single steps are made
        schedule=build.build(recipe.schedule),
        precision=lambda: machine.precision(recipe.precision),
        evaluate=lambda progress: {},
        on_step=lambda position: None,
        on_epoch=lambda record: None,
        position=Position(Progress(0, 0, 1, 1)),
    )
    return training, build.zero_batch(stage, device, size, recipe.unroll or 1)


def _seconds_a_step(training: Training, batch: Batch, device: torch.device) -> float:
    training.step(batch, training.position.progress)  # kernels are chosen, memory is found
    _wait(device)
    started, steps = time.perf_counter(), 0
    while steps < STEPS and time.perf_counter() - started < SECONDS:
        training.step(batch, training.position.progress)
        _wait(device)
        steps += 1
    return (time.perf_counter() - started) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _evaluated_too(stage: Stage) -> float:
    """The examples of the training and of the evaluation at its end, whose forward passes are a third of the work."""
    splits = stage.dataset.train_size + stage.dataset.validation_size + stage.dataset.test_size
    return stage.examples_seen + (0 if stage.is_pretraining else splits / 3)


def disk(stage: Stage) -> Disk:
    """Weights and predictions; checkpoints hold weights and the optimizer's state, and the one before is kept."""
    dataset, recipe = stage.dataset, stage.recipe
    weights = 4 * build.check_shapes(stage).parameters
    networks = (2 if recipe.select else 1) + bool(stage.method.reported_network)
    predictions = dataset.test_size * dataset.bytes_per_prediction
    moments = 2 if recipe.uses_adam else 1
    return Disk(weights * networks + (0 if stage.is_pretraining else predictions), 2 * weights * (networks + moments))


def free_disk(store: Store) -> int:
    """Bytes that are free where the store is, or will be."""
    existing = next(path for path in (store.root, *store.root.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free
