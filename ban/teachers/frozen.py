"""Trained networks as a teacher whose weights do not change."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ban.interfaces import Output, Step, Teacher, TeacherContext, TeacherOutput


def log_mean_probability(logits: Float[Tensor, "networks *batch classes"]) -> Float[Tensor, "*batch classes"]:
    """The logarithm of the networks' mean probability: the logits of an ensemble."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


class Frozen(Teacher):
    """Trained networks in evaluation mode, without gradient, on the student's view of each example or another `view`.

    Several networks form an ensemble: `average` chooses the mean of their probabilities or of their logits. Recurrent
    networks read the same text as the student and carry their own states. With a `distortion`, the batch's `last` view
    is the one without.

    With `normalised` the teacher also provides the standard deviation of each logit over the training set: over the
    labelled images without augmentation, or over the rows of a text.

    Raises:
        ValueError: with `normalised`, a logit is the same for all training examples.
    """

    deviations: Tensor | None

    def __init__(
        self,
        context: TeacherContext,
        average: Literal["probabilities", "logits"] = "probabilities",
        normalised: bool = False,
        view: Literal["first", "last"] = "first",
    ) -> None:
        super().__init__()
        # A tuple hides the networks from state_dict(): they are in the store already.
        self.networks = tuple(network.eval().requires_grad_(False) for network in context.networks)
        self.average, self.view = average, 0 if view == "first" else -1
        self._states: list[Any] = [None] * len(self.networks)
        self._next_states = self._states
        self.register_buffer("deviations", self._deviations(context) if normalised else None)

    @torch.no_grad()
    def _deviations(self, context: TeacherContext) -> Float[Tensor, " classes"]:
        """Standard deviations relative to their root mean square; 1 without data, when shapes are checked.

        In absolute units the best learning rate would depend on the scale of this teacher's logits. The loss is the
        published one times a constant. Sums are in fp64, because sums of squares are large.
        """
        if context.data is None:
            return torch.ones(context.classes)
        count, moments = 0, list[Tensor]()
        for batch in context.data.evaluation("train"):
            outputs = self._forward(batch.views[0])
            self._states = [output.state for output in outputs]
            logits = self._combine(outputs).flatten(0, -2).double()
            count += len(logits)
            moments.append(torch.stack([logits.sum(0), logits.square().sum(0)]))
        self.start_epoch()
        mean, square = torch.stack(moments).sum(0) / count
        variances = (square - mean.square()).clamp(min=0)
        if not variances.all():
            raise ValueError("a logit of the teacher is the same for all training examples: it cannot be normalised")
        return (variances / variances.mean()).sqrt().float()

    def start_epoch(self) -> None:
        """Reset the carried states."""
        self._states = [None] * len(self.networks)

    @torch.no_grad()
    def targets(self, step: Step) -> TeacherOutput:
        """Logits for the student's view, and features if there is one network.

        Raises:
            RuntimeError: a network is in training mode, or is the student itself.
        """
        for network in self.networks:
            if network.training:
                raise RuntimeError("the teacher is in training mode: its batch statistics would leak")
            if any(network is learner.network for learner in step.learners):
                raise RuntimeError("the teacher is the student itself: nothing would be distilled")
        outputs = self._forward(step.batch.views[self.view])
        self._next_states = [output.state for output in outputs]
        features = outputs[0].features if len(outputs) == 1 else None
        return TeacherOutput(self._combine(outputs), features=features, deviations=self.deviations)

    def _forward(self, inputs: Tensor) -> list[Output]:
        """Each network's output, computed from its carried state."""
        return [network(inputs, state) for network, state in zip(self.networks, self._states, strict=True)]

    def _combine(self, outputs: Sequence[Output]) -> Float[Tensor, "*batch classes"]:
        """The logits of a single network, or of the ensemble."""
        if len(outputs) == 1:
            return outputs[0].logits
        logits = torch.stack([output.logits.float() for output in outputs])
        return logits.mean(0) if self.average == "logits" else log_mean_probability(logits)

    def after_step(self, step: Step) -> None:
        """Advance the carried states after the last learner's step."""
        if step.turn == len(step.learners) - 1:
            self._states = self._next_states

    def get_extra_state(self) -> list[Any]:
        """The carried states, for a checkpoint."""
        return self._states

    def set_extra_state(self, state: list[Any]) -> None:
        """Restore the carried states of a checkpoint."""
        self._states = state
