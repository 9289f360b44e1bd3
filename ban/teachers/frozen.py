"""Trained networks that teach and do not change."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ban.interfaces import Classroom, Lesson, Step, Teacher


def mean_probability(logits: Float[Tensor, "networks *batch classes"]) -> Float[Tensor, "*batch classes"]:
    """The logarithm of the networks' mean probability."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


class Frozen(Teacher):
    """One or more trained networks: evaluation mode, no gradient, and the same view of each image as the student.

    Several networks speak with one voice: the mean of their probabilities, or of their logits. Recurrent ones read the
    same stream as the student and carry their own states.
    """

    def __init__(self, classroom: Classroom, average: Literal["probabilities", "logits"] = "probabilities") -> None:
        super().__init__()
        # A tuple hides them from state_dict(): the store has them already.
        self.networks = tuple(network.eval().requires_grad_(False) for network in classroom.networks)
        self.average = average
        self._states: list[Any] = [None] * len(self.networks)
        self._next_states = self._states

    def start_epoch(self) -> None:
        """Forgets what was read."""
        self._states = [None] * len(self.networks)

    @torch.no_grad()
    def lesson(self, step: Step) -> Lesson:
        """The networks' logits for the student's view.

        Raises:
            RuntimeError: a network is in training mode, or is the student itself.
        """
        for network in self.networks:
            if network.training:
                raise RuntimeError("the teacher is in training mode: its batch statistics would leak")
            if any(network is learner.network for learner in step.learners):
                raise RuntimeError("the teacher is the student itself: nothing would be distilled")
        inputs = step.batch.views[0]
        outputs = [network(inputs, state) for network, state in zip(self.networks, self._states, strict=True)]
        self._next_states = [output.state for output in outputs]
        if len(outputs) == 1:
            return Lesson(outputs[0].logits, features=outputs[0].features)
        logits = torch.stack([output.logits.float() for output in outputs])
        return Lesson(logits.mean(0) if self.average == "logits" else mean_probability(logits))

    def after_step(self, step: Step) -> None:
        """Reads on, once all learners have had their lesson about this batch."""
        if step.turn == len(step.learners) - 1:
            self._states = self._next_states

    def get_extra_state(self) -> list[Any]:
        """What the networks carry to the next batch."""
        return self._states

    def set_extra_state(self, state: list[Any]) -> None:
        """Goes back to a checkpoint."""
        self._states = state
