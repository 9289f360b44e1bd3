"""The training loop: epochs of steps, the curves they record, and the state that a checkpoint must hold.

The loop knows neither configuration nor disk. All random numbers are reseeded at each step, so a training that was
interrupted between two steps continues as if it had not been.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ban.errors import UserError
from ban.interfaces import Batch, Data, Progress
from ban.streams import stream
from ban.training.diagnostics import summary
from ban.training.step import Measured, TrainingStep


def reseed(seed: int) -> None:
    """Seeds torch's generators. `torch.manual_seed` formats a stack trace at each call while CUDA is not in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class BestEpoch(NamedTuple):
    """The networks after the epoch with the lowest validation metric so far."""

    epoch: int
    """Counted from 1."""
    value: float
    networks: dict[str, dict[str, Tensor]]
    """Name → state dict."""


@dataclass
class TrainingState:
    """How far a training is, and what it has recorded; part of the checkpoint."""

    progress: Progress
    sums: list[Measured] = field(default_factory=list)
    """Sums over this epoch's steps, one for each learner; empty before the epoch's first step."""
    curves: list[dict[str, float]] = field(default_factory=list)
    """One record for each finished epoch."""
    seconds: float = 0.0
    """Training time, summed over all processes that took part."""
    best: BestEpoch | None = None
    """Kept only where the recipe selects the best epoch."""

    @property
    def steps(self) -> int:
        """Finished training steps."""
        return self.progress.epoch * self.progress.steps_per_epoch + self.progress.step

    def check_finite(self) -> None:
        """Refuses to continue, or to save, a training that has diverged. Waits for the device.

        Raises:
            UserError: a running sum of the losses is not a finite number.
        """
        totals = {
            f"{_prefix(index)}{name}": value
            for index, sums in enumerate(self.sums)
            for name, value in sums.terms.items()
        }
        values = torch.stack([*totals.values()]).tolist() if totals else []
        diverged = [name for name, value in zip(totals, values, strict=True) if not math.isfinite(value)]
        if diverged:
            raise UserError(
                f"the loss ({', '.join(diverged)}) is not a finite number in epoch {self.progress.epoch + 1}: lower "
                "recipe.optimizer.lr, or use recipe.precision=fp32."
            )


class Due(NamedTuple):
    """The next step of a training."""

    training: "Training"
    batch: Batch
    progress: Progress


T = TypeVar("T")
Steps = Generator[Due, list[Measured], T]
"""A training that stops before each step, and goes on when it is sent what the step measured."""


def alone(steps: Steps[T]) -> T:
    """Takes every step of a training. Returns what the training returns."""
    try:
        due = next(steps)
        while True:
            try:
                measured = due.training.step(due.batch, due.progress)
            except Exception as error:  # the training ends with it
                due = steps.throw(error)
            else:
                due = steps.send(measured)
    except StopIteration as end:
        return end.value


@dataclass
class Training:
    """A training from its state to the end."""

    key: tuple[int, ...]
    """Names the random streams: `Stage.stream_key`."""
    step: TrainingStep
    data: Data
    state: TrainingState
    evaluate: Callable[[Progress], dict[str, float]]
    """Metrics to record after an epoch; there may be none."""
    on_step: Callable[[TrainingState], None]
    """Called between steps: checkpoints, progress, and stopping by an exception."""
    on_epoch: Callable[[dict[str, float]], None]
    selection_metric: str | None = None
    """A metric that `evaluate` gives after every epoch. Schedules see its history, and the networks with its lowest
    value are kept."""
    clock: float = 0.0
    """Reading of `time.monotonic` up to which the training time is counted."""

    def fit(self) -> Steps[None]:
        """Trains to the end.

        Raises:
            UserError: the loss is no longer a finite number.
        """
        while (progress := self.state.progress).epoch < progress.epochs:
            for learner in self.step.learners:
                learner.network.train()
            progress = self.state.progress = progress._replace(history=self._history())
            progress = progress._replace(step=0)  # of an epoch that was resumed in the middle, too
            self.clock = time.monotonic()
            yield from self.train_epoch()
            self.state.check_finite()
            self.add_elapsed()
            metrics = self.evaluate(progress)  # may be interrupted: the epoch is not closed yet
            record = self._close_epoch(progress) | metrics
            self.state.curves.append(record)
            self._keep_best(record)
            self.on_epoch(record)

    def add_elapsed(self) -> None:
        """Adds the time since the clock was last read to the training time."""
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = now

    def train_epoch(self) -> Steps[None]:
        """The remaining steps of the current epoch."""
        state, progress = self.state, self.state.progress
        if not progress.step:
            self.step.teacher.start_epoch()
            for learner in self.step.learners:
                learner.state = None
        for batch in self.data.epoch(self.key, progress.epoch, progress.step):
            reseed(stream(*self.key, "noise", progress.epoch, progress.step))
            measured = yield Due(self, batch, progress)
            state.sums = [old + new for old, new in zip(state.sums, measured, strict=True)] if state.sums else measured
            progress = state.progress = progress._replace(step=progress.step + 1)
            self.on_step(state)

    def _history(self) -> tuple[float, ...]:
        metric = self.selection_metric
        return tuple(record[metric] for record in self.state.curves) if metric else ()

    def _keep_best(self, record: Mapping[str, float]) -> None:
        if not self.selection_metric:
            return
        best, value = self.state.best, record[self.selection_metric]
        if best is None or value < best.value:
            copies = {
                name: {key: tensor.clone() for key, tensor in network.state_dict().items()}
                for name, network in self.step.networks().items()
            }
            self.state.best = BestEpoch(int(record["epoch"]), value, copies)

    def _close_epoch(self, progress: Progress) -> dict[str, float]:
        """Moves on to the next epoch. Returns this one's record."""
        state = self.state
        record = {"epoch": progress.epoch + 1, "rate": self.step.schedule(progress), "seconds": state.seconds}
        for index, sums in enumerate(state.sums):
            record |= _means(sums, _prefix(index), progress.steps_per_epoch)
        state.sums = []
        self.step.teacher.after_epoch(progress)
        state.progress = progress._replace(epoch=progress.epoch + 1, step=0)
        return record


def _prefix(learner: int) -> str:
    """The beginning of the names of a learner's curves; empty for the first one."""
    return f"{learner}." if learner else ""


def _means(sums: Measured, prefix: str, steps: int) -> dict[str, float]:
    """An epoch's means over its steps, errors in %, under the names that `curves.jsonl` uses. Waits for the device."""
    terms, errors = (
        dict(zip(part, torch.stack([*part.values()]).tolist(), strict=True)) if part else {} for part in sums[:2]
    )
    means = {f"{prefix}{name}": total / steps for name, total in terms.items()}
    if errors:
        means[f"train_{prefix}error_percent"] = 100 * errors["wrong"] / max(1.0, errors["labelled"])
    return means | {f"{prefix}diagnosis.{name}": value for name, value in summary(sums.diagnosis).items()}
