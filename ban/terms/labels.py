"""Terms that match the label."""

from jaxtyping import Float
from torch import Tensor

from ban import losses
from ban.interfaces import Batch, Lesson, Output, Term, logits_of


class Label(Term):
    """Cross-entropy with the label."""

    def forward(self, output: Output, lesson: Lesson, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        return losses.cross_entropy(output.logits, batch.targets).mean()


class ConfidenceWeightedLabel(Term):
    """Cross-entropy with the label, each example weighted by the teacher's largest probability (CWTM).

    The weights are normalised over the mini-batch. The confidence counts even where the teacher is wrong.
    Furlanello et al. 2018, eq. 10.
    """

    def forward(self, output: Output, lesson: Lesson, batch: Batch) -> Float[Tensor, ""]:
        """Weighted mean over the batch."""
        confidence = losses.probabilities(logits_of(lesson)).amax(-1)
        return losses.weighted_mean(losses.cross_entropy(output.logits, batch.targets), confidence)
