"""Terms that match the label."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, logits_of


class Label(Term):
    """Cross-entropy with the label."""

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        return losses.cross_entropy(output.logits, batch.targets).mean()


class ConfidenceWeightedLabel(Term):
    """Cross-entropy with the label, each example weighted by the teacher's largest probability (CWTM).

    The weights are normalised over the mini-batch. The confidence counts even where the teacher is wrong.
    Furlanello et al. 2018, eq. 10. With `confidence: target` the weight is the probability of the true class, eq. 9.
    """

    def __init__(self, confidence: Literal["largest", "target"] = "largest") -> None:
        """Chooses.

        Raises:
            ValueError: there is no such confidence.
        """
        super().__init__()
        if confidence not in ("largest", "target"):
            raise ValueError(f"confidence is {confidence}; choose largest or target")
        self.confidence = confidence

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Weighted mean over the batch."""
        targets = losses.probabilities(logits_of(teacher))
        of_target = targets.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
        weights = targets.amax(-1) if self.confidence == "largest" else of_target
        return losses.weighted_mean(losses.cross_entropy(output.logits, batch.targets), weights)
