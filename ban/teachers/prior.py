"""A made-up teacher with the same output for every example."""

from typing import Literal

import torch
from torch import Tensor

from ban.interfaces import Step, Teacher, TeacherContext, TeacherOutput


class Prior(Teacher):
    """The same probabilities for every example: `uniform`, or `marginal`, the classes' shares of the training labels.

    It knows nothing about an example, so a student that gains from it gains from the smoothing of its labels alone.
    """

    logits: Tensor

    def __init__(self, context: TeacherContext, distribution: Literal["marginal", "uniform"] = "marginal") -> None:
        super().__init__()
        counts = torch.ones(context.classes)
        if distribution == "marginal" and context.data is not None:
            batches = [batch.targets.flatten() for batch in context.data.evaluation("train")]
            counts = torch.cat(batches).bincount(minlength=context.classes)
        shares = counts / counts.sum()
        # A class without examples gets the smallest normal number, because its logit has to be finite.
        self.register_buffer("logits", shares.clamp(min=torch.finfo(torch.float32).tiny).log())

    def targets(self, step: Step) -> TeacherOutput:
        """The logarithm of the probabilities."""
        return TeacherOutput(self.logits.expand(*step.batch.targets.shape, -1))
