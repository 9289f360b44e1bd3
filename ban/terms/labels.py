"""Loss terms that compare the student with the label."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, logits_of
from ban.ranges import Fraction, PositiveNumber


class Label(Term):
    """Cross-entropy with the label. Unlabelled examples count in the mean with a loss of 0."""

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        return losses.cross_entropy(output.logits, batch.targets).mean()


class SmoothedLabel(Term):
    """Cross-entropy with the label, of whose probability `smoothing` is spread evenly over classes.

    Over `all` classes, the label's included (Szegedy et al. 2016, and torch), or over the `others` alone (the code of
    Yuan et al. 2020). Unlabelled examples count in the mean with a loss of 0.
    """

    def __init__(self, smoothing: Fraction = 0.1, over: Literal["all", "others"] = "all") -> None:
        super().__init__()
        self.smoothing, self.over = smoothing, over

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        kept = self.smoothing / output.logits.shape[-1] if self.over == "all" else 0.0
        peak = 1 - self.smoothing + kept
        return losses.smoothed_cross_entropy(output.logits, batch.targets, peak=peak).mean()


class VirtualTeacher(Term):
    """Cross-entropy with a made-up teacher that is right with probability `confidence` (Tf-KD_reg; Yuan et al. 2020).

    The rest of its probability is spread evenly over the other classes. With `form: paper` teacher and student are
    softened by `temperature`, without the factor temperature². With `form: code`, which gave the published numbers, the
    target is the softmax of the teacher's *probabilities* divided by the temperature, and the student is not softened.
    Unlabelled examples count in the mean with a loss of 0.
    """

    def __init__(
        self,
        confidence: Annotated[Fraction, Gt(0)] = 0.99,
        temperature: PositiveNumber = 20.0,
        form: Literal["code", "paper"] = "code",
    ) -> None:
        super().__init__()
        self.confidence, self.temperature, self.form = confidence, temperature, form

    def peak(self, classes: int) -> float:
        """The softened teacher's probability of the true class."""
        rest = (1 - self.confidence) / (classes - 1)
        advantage = self.confidence - rest if self.form == "code" else math.log(self.confidence / rest)
        return 1 / (1 + (classes - 1) * math.exp(-advantage / self.temperature))

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        temperature, peak = self.temperature if self.form == "paper" else 1.0, self.peak(output.logits.shape[-1])
        return losses.smoothed_cross_entropy(output.logits, batch.targets, peak=peak, temperature=temperature).mean()


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
