"""Loss terms that compare the student with the label."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, logits_of


class Label(Term):
    """Cross-entropy with the label. Unlabelled examples count in the mean with a loss of 0."""

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        return losses.cross_entropy(output.logits, batch.targets).mean()


class ConfidenceWeightedLabel(Term):
    """Cross-entropy with the label, each example weighted by the teacher's confidence (CWTM; Furlanello et al. 2018).

    The weights are normalised over the mini-batch. `confidence: largest` is the teacher's largest probability, whether
    its prediction is right or wrong (eq. 10); `confidence: target` is its probability of the true class (eq. 9).
    Unlabelled examples count with a loss of 0 and, in both, the teacher's largest probability.
    """

    def __init__(self, confidence: Literal["largest", "target"] = "largest") -> None:
        super().__init__()
        self.confidence = confidence

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Weighted mean over the batch."""
        targets = losses.probabilities(logits_of(teacher))
        weights = targets.amax(-1)
        if self.confidence == "target":
            of_target = targets.gather(-1, batch.targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            weights = torch.where(batch.targets >= 0, of_target, weights)
        return losses.weighted_mean(losses.cross_entropy(output.logits, batch.targets), weights)
