"""Loss terms that compare the student's outputs with the teacher's."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, logits_of, probabilities_of
from ban.ranges import NonNegativeNumber, Positive, PositiveNumber


def _compared(output: Output, teacher: TeacherOutput, standardised: bool) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's logits, each example's in units of its own standard deviation if asked for."""
    logits = output.logits, logits_of(teacher)
    return (losses.standardised(logits[0]), losses.standardised(logits[1])) if standardised else logits


class Probabilities(Term):
    """Cross-entropy with the teacher's probabilities, with both logits divided by `temperature`.

    `squared_temperature` multiplies the loss by temperature², so that the scale of its gradient does not depend on the
    temperature (Hinton, Vinyals and Dean 2015). At temperature 1 this is the loss of born-again networks.
    `standardised` logits have mean 0 and standard deviation 1 before that (Sun et al. 2024). With `unlabelled`,
    labelled examples count in the mean with a loss of 0.
    """

    def __init__(
        self,
        temperature: PositiveNumber = 1.0,
        squared_temperature: bool = True,
        standardised: bool = False,
        unlabelled: bool = False,
    ) -> None:
        super().__init__()
        self.temperature, self.standardised, self.unlabelled = temperature, standardised, unlabelled
        self.scale = temperature**2 if squared_temperature else 1.0

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        if self.temperature == 1 and not self.standardised:
            ours, targets = output.logits, probabilities_of(teacher)
        else:
            ours, theirs = _compared(output, teacher, self.standardised)
            targets = losses.probabilities(theirs, temperature=self.temperature)
        loss = losses.soft_cross_entropy(ours, targets, temperature=self.temperature)
        loss = torch.where(batch.targets < 0, loss, 0.0) if self.unlabelled else loss
        return self.scale * loss.mean()


class DecoupledProbabilities(Term):
    """DKD: temperature² · (`target` · TCKD + `others` · NCKD), with both logits divided by `temperature`.

    Zhao et al. 2022. KL(p‖q) has the weights 1 and 1 − p_y. `standardised` as in `Probabilities`. Unlabelled examples
    count in the mean with a loss of 0.
    """

    def __init__(
        self,
        target: NonNegativeNumber = 1.0,
        others: NonNegativeNumber = 8.0,
        temperature: PositiveNumber = 4.0,
        standardised: bool = False,
    ) -> None:
        super().__init__()
        self.target, self.others, self.temperature, self.standardised = target, others, temperature, standardised

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        ours, theirs = (each.float() / self.temperature for each in _compared(output, teacher, self.standardised))
        label = batch.targets.clamp(min=0)
        loss = self.target * losses.target_divergence(ours, theirs, label)
        loss = loss + self.others * losses.dark_divergence(ours, theirs, label)
        return self.temperature**2 * torch.where(batch.targets >= 0, loss, 0.0).mean()


class Correlations(Term):
    """DIST: one minus the correlation of the student's and the teacher's probabilities, times temperature².

    Over the classes of each example (`inter`), plus over the examples of each class (`intra`). Huang et al. 2022.
    `standardised` as in `Probabilities`.
    """

    def __init__(
        self,
        inter: NonNegativeNumber = 1.0,
        intra: NonNegativeNumber = 1.0,
        temperature: PositiveNumber = 1.0,
        standardised: bool = False,
    ) -> None:
        super().__init__()
        self.inter, self.intra, self.temperature, self.standardised = inter, intra, temperature, standardised

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch, and over the classes."""
        logits = _compared(output, teacher, self.standardised)
        q, p = (losses.probabilities(each, temperature=self.temperature).flatten(0, -2) for each in logits)
        loss = self.inter * losses.correlation_distance(q, p).mean()
        return self.temperature**2 * (loss + self.intra * losses.correlation_distance(q.T, p.T).mean())


class DarkKnowledge(Term):
    """Cross-entropy with the teacher's probabilities of all classes but the label's: −Σ_{i≠y} p_i log q_i.

    Of the gradient of `Probabilities` at temperature 1 this is the part that Furlanello et al. 2018 call dark
    knowledge. Unlabelled examples count in the mean with a loss of 0.
    """

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        targets = losses.probabilities(logits_of(teacher))
        return losses.dark_knowledge(output.logits, targets, batch.targets).mean()


class PermutedProbabilities(Term):
    """Cross-entropy with the teacher's probabilities after permuting all but the largest (DKPP).

    Each example has its own permutation, and labels are not used (Furlanello et al. 2018, eq. 11). The paper does not
    say how often permutations are drawn: `drawn: step` draws new ones at each step, and `drawn: example` one for each
    example. `drawn: mean` replaces the permuted target by its expected value, without random numbers.
    """

    def __init__(self, drawn: Literal["step", "example", "mean"] = "step") -> None:
        super().__init__()
        self.drawn = drawn

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        targets = losses.probabilities(logits_of(teacher))
        if self.drawn == "mean":
            return losses.soft_cross_entropy(output.logits, losses.spread_dark_knowledge(targets)).mean()
        fixed = self.drawn == "example"
        noise = losses.noise_from_index(batch.indices, targets.shape[-1]) if fixed else torch.rand_like(targets)
        return losses.soft_cross_entropy(output.logits, losses.permute_dark_knowledge(targets, noise)).mean()


class Consistency(Term):
    """Squared difference of the probabilities, for labelled and unlabelled examples.

    Laine and Aila 2017; Tarvainen and Valpola 2017.
    """

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch and the classes."""
        student = losses.probabilities(output.logits)
        return losses.squared_difference(student, probabilities_of(teacher)).mean()


class TopScoreDifference(Term):
    """The gap between the network's largest probability and the mean of its next ones (Yang et al. 2019).

    `scores` is the number of probabilities compared, the largest included. Needs no teacher.
    """

    def __init__(self, scores: Annotated[Positive, Ge(2)]) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        return losses.top_score_difference(output.logits, scores=self.scores).mean()


class Logits(Term):
    """Half the squared distance of the logits (logit regression; Ba and Caruana 2014).

    If the teacher provides `deviations`, each logit's distance is divided by its deviation.
    """

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        return losses.logit_regression(output.logits, logits_of(teacher), deviations=teacher.deviations).mean()
