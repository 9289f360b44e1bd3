"""The one training loop: batches → learners and teacher → terms → weights and curves.

It knows neither configuration nor disk. Everything random is reseeded at each step, so a training that was stopped
between any two steps goes on exactly as if nothing had happened.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ban.errors import UserError
from ban.interfaces import Batch, Data, Output, Progress, Step, Teacher, TeacherOutput
from ban.streams import stream
from ban.training import diagnostics

DIAGNOSIS, DIAGNOSED = "diagnosis.", "diagnosed"
"""How the diagnostics are called in a record, and the number of steps that they are a mean of."""


def reseed(seed: int) -> None:
    """`torch.manual_seed` for every step: that one formats a stack trace at each call until CUDA is in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class Weight(Protocol):
    """A value over time: a pure function of the progress, so there is nothing to save."""

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        ...


class Objective(nn.Module):
    """A method's loss for one learner: named terms and their weights over time."""

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, Weight]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = weights

    def forward(self, output: Output, targets: TeacherOutput, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Each term's scalar, weighted."""
        return {name: self.weights[name](progress) * term(output, targets, batch) for name, term in self.terms.items()}


@dataclass(eq=False)
class Learner:
    """A network in training with its own objective and optimizer."""

    network: nn.Module
    objective: Objective
    peak_rate: float
    loss_scale: float = 1.0
    """What the mean over the batch is multiplied by: the unrolled steps, for a loss that is summed over time."""
    clip_norm: float | None = None
    """The largest norm of the gradient of the scaled loss."""
    until: str | None = None
    """The feature after which the network's forward pass ends; None: at the logits."""
    state: Any = None
    """What a recurrent network carries to the next batch."""
    optimizer: torch.optim.Optimizer = field(init=False)

    def __call__(self, inputs: Tensor) -> Output:
        """The network's output, with its carried state."""
        return self.network(inputs, self.state) if self.until is None else self.network(inputs, until=self.until)

    def step(self, loss: Tensor, rate: float, beta1: float | None = None) -> None:
        """One step of the optimizer at `rate` times the peak learning rate, and with Adam's `beta1` if it changes."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak_rate * rate
            if beta1 is not None:
                group["betas"] = (beta1, group["betas"][1])
        self.optimizer.zero_grad(set_to_none=True)
        (self.loss_scale * loss).backward()
        if self.clip_norm is not None:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "network": self.network.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": self.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.state = state["state"]


class Best(NamedTuple):
    """The networks after the epoch with the lowest validation result so far."""

    epoch: int
    """Counted from 1."""
    value: float
    networks: dict[str, dict[str, Tensor]]
    """Name → state."""


@dataclass
class Position:
    """Where a training stands, and what it has recorded so far; part of the checkpoint."""

    progress: Progress
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Running sums of this epoch's losses and errors, on the device."""
    curves: list[dict[str, float]] = field(default_factory=list)
    """One record per finished epoch."""
    seconds: float = 0.0
    """Time spent training, over all processes that did."""
    best: Best | None = None
    """Kept only where a training is asked to follow its validation set."""

    def check_finite(self) -> None:
        """Refuses to go on from, or to save, a training that has diverged. Waits for the device.

        Raises:
            UserError: a running sum of the losses is not a finite number.
        """
        totals = torch.stack([*self.sums.values()]).tolist() if self.sums else []
        bad = [name for name, total in zip(self.sums, totals, strict=True) if not math.isfinite(total)]
        if bad:
            raise UserError(
                f"the loss ({', '.join(bad)}) is not a finite number in epoch {self.progress.epoch + 1}: lower "
                "recipe.optimizer.lr, or use recipe.precision=fp32."
            )


@dataclass
class Training:
    """Everything that a training consists of."""

    key: tuple[int, ...]
    learners: Sequence[Learner]
    teacher: Teacher
    data: Data
    schedule: Weight
    precision: Callable[[], AbstractContextManager[Any]]
    """Autocast for the networks; losses are computed in fp32 outside of it."""
    evaluate: Callable[[Progress], dict[str, float]]
    """What to measure after an epoch; it may be nothing."""
    on_step: Callable[[Position], None]
    """Called between steps: checkpoints, progress, and stopping by an exception."""
    on_epoch: Callable[[dict[str, float]], None]
    position: Position
    beta1: Weight | None = None
    """Adam's decay of the mean gradient, where it changes."""
    count_errors: bool = True
    """Whether to record how many training examples are classified wrongly."""
    diagnosed_steps: int = 0
    """In so many steps of an epoch, evenly spread, the gradient is taken apart: `ban.training.diagnostics`."""
    follow: str | None = None
    """A measurement of `evaluate` that comes after every epoch: its history goes to the schedules, and the networks
    with its lowest value are kept."""
    started: float = 0.0
    """When the clock was last read."""

    def fit(self) -> None:
        """Trains from the position to the end.

        Raises:
            UserError: the loss is no longer a finite number.
        """
        while (progress := self.position.progress).epoch < progress.epochs:
            for learner in self.learners:
                learner.network.train()
            progress = self.position.progress = progress._replace(history=self._history())
            progress = progress._replace(step=0)  # the same for an epoch that was resumed in the middle
            self.started = time.monotonic()
            self.advance()
            self.position.check_finite()
            self.tick()
            measured = self.evaluate(progress)  # may be interrupted: nothing has been closed yet
            record = self._close_epoch(progress) | measured
            self.position.curves.append(record)
            self._keep_best(record)
            self.on_epoch(record)

    def tick(self) -> None:
        """Adds the time since the last tick to the training's."""
        now = time.monotonic()
        self.position.seconds += now - self.started
        self.started = now

    def advance(self) -> None:
        """The rest of the current epoch."""
        position, progress = self.position, self.position.progress
        if not progress.step:
            self.teacher.start_epoch()
            for learner in self.learners:
                learner.state = None
        for batch in self.data.epoch(self.key, progress.epoch, progress.step):
            reseed(stream(*self.key, "noise", progress.epoch, progress.step))
            self.step(batch, progress)
            progress = position.progress = progress._replace(step=progress.step + 1)
            self.on_step(position)

    def step(self, batch: Batch, progress: Progress) -> None:
        """Every learner's turn. What is large lives no longer than this."""
        learners, teacher = self.learners, self.teacher
        rate, beta1 = self.schedule(progress), None if self.beta1 is None else self.beta1(progress)
        with self.precision():
            outputs = [learner(batch.views[0]) for learner in learners]
        for turn, learner in enumerate(learners):
            step = Step(batch, learners, outputs, turn, progress)
            with self.precision():
                targets = teacher.targets(step)
            terms = learner.objective(outputs[turn], targets, batch, progress)
            learner.step(torch.stack([*terms.values()]).sum(), rate, beta1)
            teacher.after_step(step)
            self._record("" if turn == 0 else f"{turn}.", self._observe(terms, outputs[turn], targets, batch, progress))
        for learner, output in zip(learners, outputs, strict=True):
            learner.state = output.state

    @torch.no_grad()
    def _observe(
        self,
        terms: Mapping[str, Tensor],
        output: Output,
        targets: TeacherOutput,
        batch: Batch,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """What is recorded of a step, on the device."""
        observed = dict(terms)
        if self.count_errors:
            labelled = batch.targets >= 0
            observed["wrong"] = ((output.logits.argmax(-1) != batch.targets) & labelled).sum().float()
            observed["labelled"] = labelled.sum().float()
        if self.diagnosed_steps and targets.logits is not None:
            every = max(1, progress.steps_per_epoch // self.diagnosed_steps)
            if progress.step % every == 0:
                report = diagnostics.report(output.logits, targets.logits, batch.targets)
                observed |= {f"{DIAGNOSIS}{name}": value for name, value in report.items()}
                observed[DIAGNOSED] = torch.ones((), device=output.logits.device)
        return observed

    def _record(self, whose: str, observed: Mapping[str, Tensor]) -> None:
        """Adds to the running sums; nothing here waits for the device."""
        for name, value in observed.items():
            total = self.position.sums.get(whose + name)
            self.position.sums[whose + name] = value.detach() if total is None else total + value.detach()

    def networks(self) -> dict[str, nn.Module]:
        """What is trained, by name: `0`, `1`, … and what the teacher publishes."""
        return {str(index): learner.network for index, learner in enumerate(self.learners)} | {
            **self.teacher.published()
        }

    def _history(self) -> tuple[float, ...]:
        return tuple(record[self.follow] for record in self.position.curves) if self.follow else ()

    def _keep_best(self, record: Mapping[str, float]) -> None:
        if not self.follow:
            return
        best, value = self.position.best, record[self.follow]
        if best is None or value < best.value:
            copies = {
                name: {key: tensor.clone() for key, tensor in network.state_dict().items()}
                for name, network in self.networks().items()
            }
            self.position.best = Best(int(record["epoch"]), value, copies)

    def _close_epoch(self, progress: Progress) -> dict[str, float]:
        """Goes on to the next epoch; what this one recorded, as means over its steps."""
        position = self.position
        sums = dict(zip(position.sums, torch.stack([*position.sums.values()]).tolist(), strict=True))
        position.sums.clear()
        self.teacher.after_epoch(progress)
        position.progress = progress._replace(epoch=progress.epoch + 1, step=0)
        record = {"epoch": progress.epoch + 1, "rate": self.schedule(progress), "seconds": position.seconds}
        for name, total in sums.items():
            whose = name.removesuffix("wrong")
            if name.endswith("wrong"):
                record[f"train_{whose}error_percent"] = 100 * total / max(1.0, sums[f"{whose}labelled"])
            elif DIAGNOSIS in name:
                record[name] = total / sums[name.partition(DIAGNOSIS)[0] + DIAGNOSED]
            elif not name.endswith(("labelled", DIAGNOSED)):
                record[name] = total / progress.steps_per_epoch
        return record
