"""Estimates the time and the disk space of a plan on this machine, from a few timed steps of each kind of training."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from ban.errors import UserError
from ban.interfaces import Batch
from ban.launch.pool import longest_paths
from ban.plan.stage import Parent, Stage
from ban.store.store import Store
from ban.training import build
from ban.training.device import Device
from ban.training.memory import decided, is_undecided
from ban.training.rehearsal import rehearse
from ban.training.step import START, TrainingStep
from ban.training.timing import timed, wait

STEPS, SECONDS = 5, 1.0
"""After a warm-up step, this number of steps is timed, or fewer once this time has passed."""
CPU_OPERATIONS = 1e11
"""The most floating-point operations of a timed step on a CPU. Of a batch that needs more, a part is timed."""


class Disk(NamedTuple):
    """Disk space of one training, in bytes."""

    kept: int
    """In the store."""
    temporary: int
    """Its checkpoints, while it is trained."""


class Estimate(NamedTuple):
    """The cost of a plan."""

    seconds: float
    """Time of all trainings, one after another."""
    longest: float
    """Seconds of the longest chain of teachers and students; more devices cannot make the plan faster than this."""
    kept: int
    temporary: int
    """Bytes of the largest training's checkpoints."""
    kinds: int
    """The number of different trainings that were timed."""


def estimate(stages: Sequence[Stage], device: Device, track: Callable[[Iterable[Stage]], Iterable[Stage]]) -> Estimate:
    """The cost of the stages, teachers before students. `track` shows the progress.

    Raises:
        UserError: one does not fit into the device's memory.
    """
    by_kind = {stage.step_kind: stage for stage in stages}
    speeds = {stage.step_kind: examples_per_second(stage, device) for stage in track([*by_kind.values()])}
    seconds = {stage.signature: _examples(stage) / speeds[stage.step_kind] for stage in stages}
    chains = longest_paths(stages, lambda stage: seconds[stage.signature])
    space = [disk(stage) for stage in stages]
    return Estimate(
        seconds=sum(seconds.values()),
        longest=max(chains.values(), default=0.0),
        kept=sum(each.kept for each in space),
        temporary=max((each.temporary for each in space), default=0),
        kinds=len(by_kind),
    )


def examples_per_second(stage: Stage, device: Device) -> float:
    """Training images, rows or words per second, measured with fresh teachers and a batch of zeros.

    Raises:
        UserError: the training does not fit into the device's memory.
    """
    target, recipe = device.prepare(), stage.recipe
    size, unroll = recipe.batch_size, recipe.unroll or 1
    if target.type == "cpu":
        operations = rehearse(stage).training_flops * size * unroll
        size = max(2, min(size, int(size * CPU_OPERATIONS / max(1.0, operations))))
    spelling = build.zero_spelling(stage, target)

    def load(parent: Parent) -> nn.Module:
        return build.network(parent.stage, parent.index, spelling).to(target)

    try:
        step = build.training_step(stage, load, device, spelling)
        batch = build.zero_batch(stage, target, size, unroll)
        return batch.targets.numel() / _seconds_per_step(step, batch, target)
    except torch.OutOfMemoryError as error:
        if not is_undecided(stage):
            raise UserError(
                f"{stage.label}, {stage.model.title}, does not fit into the memory of {device.name}."
            ) from error
    return examples_per_second(decided(stage), device)


def _seconds_per_step(step: TrainingStep, batch: Batch, device: torch.device) -> float:
    for learner in step.learners:
        learner.network.train()
    step(batch, START)  # kernels are chosen and memory is allocated

    def act() -> None:
        step(batch, START)
        wait(device)

    count, seconds = timed(act, device, seconds=SECONDS, most=STEPS)
    return seconds / count


def _examples(stage: Stage) -> float:
    """Training examples, plus a third for each evaluated one, because a forward pass is a third of a training step."""
    trained_on = stage.dataset.train_size if stage.epochs else 0
    splits = trained_on + stage.dataset.validation_size + stage.dataset.test_size
    return stage.examples_seen + (0 if stage.is_pretraining else splits / 3)


def disk(stage: Stage) -> Disk:
    """Weights and predictions; checkpoints hold weights and the optimizer's state, and the one before is kept."""
    dataset, recipe = stage.dataset, stage.recipe
    weights = 4 * rehearse(stage).parameters
    networks = (2 if recipe.select and stage.epochs else 1) + bool(stage.method.reported_network)
    predictions = dataset.test_size * dataset.bytes_per_prediction
    moments = 2 if "Adam" in recipe.optimizer["_target_"] else 1
    checkpoints = 2 * weights * (networks + moments) if stage.epochs else 0
    return Disk(weights * networks + (0 if stage.is_pretraining else predictions), checkpoints)


def free_disk(store: Store) -> int:
    """Free bytes on the disk of the store, which need not exist yet."""
    existing = next(path for path in (store.root, *store.root.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free


def operations(stage: Stage) -> float:
    """The floating-point operations of a training."""
    return rehearse(stage).training_flops * stage.examples_seen
