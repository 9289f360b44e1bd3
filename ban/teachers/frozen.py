"""Trained networks that teach and do not change."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from ban.interfaces import Lesson, Step, Teacher


class Frozen(Teacher):
    """One or more trained networks: evaluation mode, no gradient, and the same view of each image as the student.

    Several networks speak with one voice: the mean of their probabilities, or of their logits.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        average: Literal["probabilities", "logits"] = "probabilities",
    ) -> None:
        super().__init__()
        # A tuple hides them from state_dict(): the store has them already.
        self.networks = tuple(network.eval().requires_grad_(False) for network in networks)
        self.average = average

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
        outputs = [network(step.batch.views[0]) for network in self.networks]
        if len(outputs) == 1:
            return Lesson(outputs[0].logits, outputs[0].features)
        logits = torch.stack([output.logits.float() for output in outputs])
        if self.average == "logits":
            return Lesson(logits.mean(0))
        return Lesson(logits.log_softmax(-1).logsumexp(0) - math.log(len(outputs)))
