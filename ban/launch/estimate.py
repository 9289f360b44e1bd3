"""Estimates the time and the disk space of a plan on this machine, from a few timed steps of each kind of training.

Torch is imported only if a kind was not timed in the last days.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ban.plan.order import longest_paths
from ban.plan.stage import Stage
from ban.settings.types import plain
from ban.store.remembered import key, memory
from ban.store.store import Store
from ban.training.costs import rehearse
from ban.training.place import Place

DAYS = 7
"""A timing is remembered that long: drivers, clocks and other processes change."""
LARGE_STEP = 1e10
"""Floating-point operations of a step on a CPU; the time of larger ones is in proportion to their operations."""


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
    earlier: int = 0
    """How many of them an earlier command timed."""


def estimate(stages: Sequence[Stage], place: Place, track: Callable[[Iterable[Stage]], Iterable[Stage]]) -> Estimate:
    """The cost of the stages, teachers before students. `track` shows the progress.

    Raises:
        UserError: one does not fit into the device's memory.
    """
    kinds = {step: _kind(stage, place) for step, stage in {stage.step_kind: stage for stage in stages}.items()}
    first = {kinds[stage.step_kind]: stage for stage in reversed(stages)}
    rates = {kind: rate for kind in first if (rate := _remembered(kind)) is not None}
    earlier = len(rates)
    for stage in track([stage for kind, stage in first.items() if kind not in rates]):
        kind = kinds[stage.step_kind]
        rates[kind] = _timed(kind, stage, place)
    seconds = {stage.signature: _examples(stage) * _cost(stage) / rates[kinds[stage.step_kind]] for stage in stages}
    chains = longest_paths(stages, lambda stage: seconds[stage.signature])
    space = [disk(stage) for stage in stages]
    return Estimate(
        seconds=sum(seconds.values()),
        longest=max(chains.values(), default=0.0),
        kept=sum(each.kept for each in space),
        temporary=max((each.temporary for each in space), default=0),
        kinds=len(first),
        earlier=earlier,
    )


def _kind(stage: Stage, place: Place) -> str:
    """A key that trainings of equal operations per second share: all methods of a large network, or equal steps."""
    recipe, alike = stage.recipe, stage.step_kind
    size = recipe.batch_size * (recipe.unroll or 1)
    if place.name == "cpu" and _cost(stage) * size >= LARGE_STEP:
        alike = plain([stage.models, size, recipe.precision])
    return key(alike, place.name, place.product, place.threads)


def _cost(stage: Stage) -> float:
    """Operations for each example; 1 where none were counted."""
    return rehearse(stage).training_flops or 1.0


def _remembered(kind: str) -> float | None:
    """Operations per second, as a command of the last days timed them here."""
    match memory("rates").found.get(kind):
        case [int() | float() as rate, int() | float() as at] if rate > 0 and 0 <= time.time() - at < DAYS * 86400:
            return rate
        case _:
            return None


def _timed(kind: str, stage: Stage, place: Place) -> float:
    from ban.training.device import Device
    from ban.training.timing import examples_per_second

    rate = _cost(stage) * examples_per_second(stage, Device(place.name, place.threads))
    memory("rates").add({kind: [rate, time.time()]})
    return rate


def _examples(stage: Stage) -> float:
    """Training examples, plus a third for each evaluated one, because a forward pass is a third of a training step."""
    trained_on = (stage.dataset.labels or stage.dataset.train_size) if stage.epochs else 0
    splits = trained_on + stage.dataset.validation_size + stage.dataset.test_size
    return stage.examples_seen + (0 if stage.is_pretraining else splits / 3)


def disk(stage: Stage) -> Disk:
    """Weights and predictions; checkpoints hold weights, the optimizer's state, and what terms and teacher remember.

    The checkpoint before is kept, and a pre-training's terms are stored beside its weights.
    """
    dataset, recipe, cost = stage.dataset, stage.recipe, rehearse(stage)
    weights = 4 * cost.parameters
    networks = (2 if recipe.select and stage.epochs else 1) + bool(stage.method.reported_network)
    predictions = dataset.test_size * dataset.bytes_per_prediction
    moments = 2 if "Adam" in recipe.optimizer["_target_"] else 1
    checkpoints = 2 * (weights * (networks + moments) + cost.memories) if stage.epochs else 0
    return Disk(weights * networks + (cost.memories if stage.is_pretraining else predictions), checkpoints)


def free_disk(store: Store) -> int:
    """Free bytes on the disk of the store, which need not exist yet."""
    existing = next(path for path in (store.root, *store.root.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free


def operations(stage: Stage) -> float:
    """The floating-point operations of a training."""
    return rehearse(stage).training_flops * stage.examples_seen
