"""Trained networks that teach and do not change."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ban.interfaces import Output, Step, Teacher, TeacherContext, TeacherOutput


def mean_probability(logits: Float[Tensor, "networks *batch classes"]) -> Float[Tensor, "*batch classes"]:
    """The logarithm of the networks' mean probability."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


class Frozen(Teacher):
    """One or more trained networks: evaluation mode, no gradient, and the same view of each image as the student.

    Several networks speak with one voice: the mean of their probabilities, or of their logits. Recurrent ones read the
    same stream as the student and carry their own states. With `normalised`, the standard deviation of each logit over
    the training set comes along: over its labelled images as they are, or over a text's rows.
    """

    deviations: Tensor | None

    def __init__(
        self,
        context: TeacherContext,
        average: Literal["probabilities", "logits"] = "probabilities",
        normalised: bool = False,
    ) -> None:
        """Listens to the whole training set, if its logits are to be normalised.

        Raises:
            ValueError: a logit is the same for all of it.
        """
        super().__init__()
        # A tuple hides them from state_dict(): the store has them already.
        self.networks = tuple(network.eval().requires_grad_(False) for network in context.networks)
        self.average = average
        self._states: list[Any] = [None] * len(self.networks)
        self._next_states = self._states
        self.register_buffer("deviations", self._deviations(context) if normalised else None)

    @torch.no_grad()
    def _deviations(self, context: TeacherContext) -> Float[Tensor, " classes"]:
        """Relative to their root mean square; 1 where there are no data to listen to.

        In absolute units the right learning rate would depend on how large this teacher's logits are: the loss is the
        published one times a constant. Sums in fp64, because those of squares are large.
        """
        if context.data is None:
            return torch.ones(context.classes)
        count, moments = 0, []
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
        """Forgets what was read."""
        self._states = [None] * len(self.networks)

    @torch.no_grad()
    def targets(self, step: Step) -> TeacherOutput:
        """The networks' logits for the student's view.

        Raises:
            RuntimeError: a network is in training mode, or is the student itself.
        """
        for network in self.networks:
            if network.training:
                raise RuntimeError("the teacher is in training mode: its batch statistics would leak")
            if any(network is learner.network for learner in step.learners):
                raise RuntimeError("the teacher is the student itself: nothing would be distilled")
        outputs = self._forward(step.batch.views[0])
        self._next_states = [output.state for output in outputs]
        features = outputs[0].features if len(outputs) == 1 else None
        return TeacherOutput(self._combine(outputs), features=features, deviations=self.deviations)

    def _forward(self, inputs: Tensor) -> list[Output]:
        """Every network, from where it has read to."""
        return [network(inputs, state) for network, state in zip(self.networks, self._states, strict=True)]

    def _combine(self, outputs: Sequence[Output]) -> Float[Tensor, "*batch classes"]:
        """One network's logits as they are, or what several say with one voice."""
        if len(outputs) == 1:
            return outputs[0].logits
        logits = torch.stack([output.logits.float() for output in outputs])
        return logits.mean(0) if self.average == "logits" else mean_probability(logits)

    def after_step(self, step: Step) -> None:
        """Reads on, once all learners have had their teacher_output about this batch."""
        if step.turn == len(step.learners) - 1:
            self._states = self._next_states

    def get_extra_state(self) -> list[Any]:
        """What the networks carry to the next batch."""
        return self._states

    def set_extra_state(self, state: list[Any]) -> None:
        """Goes back to a checkpoint."""
        self._states = state
