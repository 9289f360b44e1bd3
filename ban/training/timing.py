"""Times what runs on a device, such as a few steps of a training."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from ban.errors import UserError
from ban.interfaces import Batch
from ban.plan.stage import Parent, Stage
from ban.training import build
from ban.training.costs import rehearse
from ban.training.device import Device
from ban.training.memory import decided, is_undecided
from ban.training.step import START, TrainingStep

STEPS, SECONDS = 5, 1.0
"""After a warm-up step, this number of steps is timed, or fewer once this time has passed."""
CPU_OPERATIONS = 2e10
"""The most floating-point operations of a timed step on a CPU. Of a batch that needs more, a part is timed."""


class Timed(NamedTuple):
    """How much was done, and how long it took altogether."""

    amount: int
    seconds: float


def timed(act: Callable[[], object], device: torch.device, *, seconds: float, most: int | None = None) -> Timed:
    """Runs `act` at least once, and again until `seconds` have passed or it ran `most` times.

    The time ends when the device has finished; between two runs nothing waits for it.
    """
    wait(device)
    started, count = time.perf_counter(), 0
    while not count or (time.perf_counter() - started < seconds and count != most):
        act()
        count += 1
    wait(device)
    return Timed(count, time.perf_counter() - started)


def wait(device: torch.device) -> None:
    """Until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
        seconds = _seconds_per_step(step, build.zero_batch(stage, target, size, unroll), target)
        if size < recipe.batch_size:
            updates = min(seconds, _seconds_of_updates(step))  # which do not depend on the size of the batch
            seconds = (seconds - updates) * recipe.batch_size / size + updates
        return recipe.batch_size * unroll / seconds
    except torch.OutOfMemoryError as error:
        if not is_undecided(stage):
            raise UserError(
                f"{stage.label}, {stage.model.title}, does not fit into the memory of {device.name}."
            ) from error
    return examples_per_second(decided(stage), device)


def _seconds_per_step(step: TrainingStep, batch: Batch, device: torch.device) -> float:
    for learner in step.learners:
        learner.network.train()
    started = time.perf_counter()
    step(batch, START)  # kernels are chosen and memory is allocated
    wait(device)
    if device.type == "cpu" and time.perf_counter() - started > SECONDS:  # little of it was spent on that
        return time.perf_counter() - started

    def act() -> None:
        step(batch, START)
        wait(device)

    count, seconds = timed(act, device, seconds=SECONDS, most=STEPS)
    return seconds / count


def _seconds_of_updates(step: TrainingStep) -> float:
    """Of all optimizers on a CPU."""
    started = time.perf_counter()
    for learner in step.learners:
        learner.optimizer.step()
    return time.perf_counter() - started
