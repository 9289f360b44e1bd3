"""One training step: forward passes, teacher, loss terms, backward passes, optimizer steps."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ban.interfaces import Batch, Output, Progress, Step, Teacher, TeacherOutput
from ban.training import diagnostics

START = Progress(0, 0, 1, 1)
"""The first step of a training of one step."""


class Weight(Protocol):
    """A value over time. It is a pure function of the progress, so it has no state to save."""

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        ...


Weights = Mapping[str, float | Tensor]
"""Terms' weights at one step, by name. Compiled functions take tensors: a number would be a constant of the graph."""


class Objective(nn.Module):
    """A method's loss for one learner: named terms and their weights over time."""

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, Weight]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = weights

    def forward(self, output: Output, targets: TeacherOutput, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Each term's scalar, weighted."""
        return self.weighted(output, targets, batch, self.weights_at(progress))

    def weights_at(self, progress: Progress) -> Weights:
        """Each term's weight at this step."""
        return {name: weight(progress) for name, weight in self.weights.items()}

    def weighted(self, output: Output, targets: TeacherOutput, batch: Batch, weights: Weights) -> dict[str, Tensor]:
        """Each term's scalar times its weight."""
        return {name: weights[name] * term(output, targets, batch) for name, term in self.terms.items()}


@dataclass(eq=False, kw_only=True)
class Student:
    """A network with the state that it carries from batch to batch: `ban.interfaces.Learner`."""

    network: nn.Module
    until: str | None = None
    """The feature after which the forward pass ends; None: at the logits."""
    state: Any = None

    def __call__(self, inputs: Tensor) -> Output:
        """The network's output, computed from its carried state."""
        return self.network(inputs, self.state) if self.until is None else self.network(inputs, until=self.until)


@dataclass(eq=False, kw_only=True)
class Learner(Student):
    """A student in training."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    peak_rate: float
    loss_scale: float = 1.0
    """The mean loss over the batch is multiplied by this: the unrolled steps, for a loss that is summed over time."""
    clip_norm: float | None = None
    """The largest norm of the gradient of the scaled loss."""

    def update(self, loss: Tensor, rate: float, beta1: float | None = None) -> None:
        """One optimizer step at `rate` times the peak learning rate, with Adam's `beta1` if it changes over time."""
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
        """The state that a checkpoint needs."""
        return {
            "network": self.network.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": self.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state of a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.state = state["state"]


class Measured(NamedTuple):
    """Values of one learner's steps, on the device: of one step, or summed over several."""

    terms: dict[str, Tensor]
    """Loss terms, weighted."""
    errors: dict[str, Tensor]
    """`wrong`: misclassified examples; `labelled`: examples with a label. Empty where errors are not counted."""
    diagnosis: dict[str, Tensor]
    """What `ban.training.diagnostics.report` gives. Empty in other steps."""

    def __add__(self, other: "Measured") -> "Measured":  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sums. Scalars that one side lacks are taken from the other."""
        return Measured(*(_added(mine, theirs) for mine, theirs in zip(self, other, strict=True)))


class Losses(NamedTuple):
    """One learner's loss in a step, and what is needed after its backward pass. All but `total` is detached."""

    total: Tensor
    """With gradient: the sum of the terms."""
    terms: dict[str, Tensor]
    output: Output
    targets: TeacherOutput
    """Only the logits."""


Forward = Callable[[Student, Tensor], Output]
ComputeLosses = Callable[[Step, Weights], Losses]


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _added(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    return mine | {name: mine[name] + value if name in mine else value for name, value in theirs.items()}


@dataclass
class TrainingStep:
    """All that a training step computes with. It reads no data, and never waits for the device."""

    learners: Sequence[Learner]
    teacher: Teacher
    schedule: Weight
    """Factor of the peak learning rate."""
    precision: Callable[[], AbstractContextManager[Any]]
    """Autocast for the networks; losses are computed outside of it, in fp32."""
    beta1: Weight | None = None
    """Adam's decay rate of the mean gradient, where it changes over time."""
    counts_errors: bool = True
    """Whether to count misclassified training examples."""
    diagnosed_steps: int = 0
    """The number of steps of an epoch, evenly spread, in which the gradient is decomposed."""

    functions: tuple[Forward, ComputeLosses] | None = None
    """Compiled versions of `forward` and `losses`; None: they run eagerly."""

    def __call__(self, batch: Batch, progress: Progress) -> list[Measured]:
        """Updates every learner in turn. Activations are freed when it returns."""
        rate, beta1 = self.schedule(progress), None if self.beta1 is None else self.beta1(progress)
        forward, losses = self.functions or (self.forward, self.losses)
        alone = len(self.learners) == 1  # then the forward pass is a part of `losses`: one graph where it is compiled
        outputs = [] if alone else [forward(learner, batch.views[0]) for learner in self.learners]
        measured: list[Measured] = []
        for turn, learner in enumerate(self.learners):
            step = Step(batch, self.learners, outputs, turn, progress)
            computed = losses(step, learner.objective.weights_at(progress))
            if alone:
                outputs.append(computed.output)
            learner.update(computed.total, rate, beta1)
            measured.append(self.measure(computed.terms, computed.output, computed.targets, batch, progress))
            with self.precision():
                self.teacher.after_step(step)  # may replace outputs[turn]
        for learner, output in zip(self.learners, outputs, strict=True):
            learner.state = output.state
        return measured

    def forward(self, student: Student, inputs: Tensor) -> Output:
        """A student's output."""
        with self.precision():
            return student(inputs)

    def losses(self, step: Step, weights: Weights) -> Losses:
        """The loss of the learner whose turn it is; with its forward pass, if `step` holds no outputs yet."""
        learner, batch = self.learners[step.turn], step.batch
        if not step.outputs:
            step = step._replace(outputs=[self.forward(learner, batch.views[0])])
        output = step.outputs[step.turn]
        with self.precision():
            targets = self.teacher.targets(step)
        terms = learner.objective.weighted(output, targets, batch, weights)
        return Losses(
            torch.stack([*terms.values()]).sum(),
            _detached(terms),
            output._replace(logits=output.logits.detach(), features=_detached(output.features or {})),
            TeacherOutput(None if targets.logits is None else targets.logits.detach()),
        )

    @torch.no_grad()
    def measure(
        self, terms: Mapping[str, Tensor], output: Output, targets: TeacherOutput, batch: Batch, progress: Progress
    ) -> Measured:
        """What is recorded of a step, from its values."""
        errors, diagnosis = dict[str, Tensor](), dict[str, Tensor]()
        if self.counts_errors:
            labelled = batch.targets >= 0
            wrong = (output.logits.argmax(-1) != batch.targets) & labelled
            errors = {"wrong": wrong.sum().float(), "labelled": labelled.sum().float()}
        if self.diagnosed_steps and targets.logits is not None:
            interval = max(1, progress.steps_per_epoch // self.diagnosed_steps)
            if progress.step % interval == 0:
                diagnosis = diagnostics.report(output.logits, targets.logits, batch.targets)
        return Measured({name: term.detach() for name, term in terms.items()}, errors, diagnosis)

    def networks(self) -> dict[str, nn.Module]:
        """The trained networks by name: `0`, `1`, … and those that the teacher publishes."""
        return {str(index): learner.network for index, learner in enumerate(self.learners)} | {
            **self.teacher.published()
        }
