"""Terms that match the teacher's outputs."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, logits_of, probabilities_of


class Probabilities(Term):
    """Cross-entropy with the teacher's probabilities, both sides softened by `temperature`.

    With `squared_temperature` the loss is multiplied by temperature², which keeps the size of its gradient when the
    temperature is varied (Hinton, Vinyals and Dean 2015). At temperature 1 this is the born-again loss.
    """

    def __init__(self, temperature: float = 1.0, squared_temperature: bool = True) -> None:
        super().__init__()
        self.temperature = temperature
        self.scale = temperature**2 if squared_temperature else 1.0

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        targets = losses.probabilities(logits_of(teacher), temperature=self.temperature)
        loss = losses.soft_cross_entropy(output.logits, targets, temperature=self.temperature)
        return self.scale * loss.mean()


class PermutedProbabilities(Term):
    """Cross-entropy with the teacher's probabilities after permuting all but the largest (DKPP).

    Each example has its own permutation. No label is used. Furlanello et al. 2018, eq. 11, do not say how often it is
    drawn: anew at each `step`, or once per `example`. `mean`: what the first is in expectation, without any chance.
    """

    def __init__(self, drawn: Literal["step", "example", "mean"] = "step") -> None:
        """Chooses.

        Raises:
            ValueError: there is no such way to draw.
        """
        super().__init__()
        if drawn not in ("step", "example", "mean"):
            raise ValueError(f"drawn is {drawn}; choose step, example or mean")
        self.drawn = drawn

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        targets = losses.probabilities(logits_of(teacher))
        if self.drawn == "mean":
            return losses.soft_cross_entropy(output.logits, losses.spread_dark_knowledge(targets)).mean()
        always = self.drawn == "example"
        noise = losses.noise_from_index(batch.indices, targets.shape[-1]) if always else torch.rand_like(targets)
        return losses.soft_cross_entropy(output.logits, losses.permute_dark_knowledge(targets, noise)).mean()


class Consistency(Term):
    """Squared difference of the probabilities, labelled or not (Laine and Aila 2017; Tarvainen and Valpola 2017)."""

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over batch and classes."""
        student = losses.probabilities(output.logits)
        return losses.squared_difference(student, probabilities_of(teacher)).mean()


class TopScoreDifference(Term):
    """How far the network's first choice is above its next ones; no teacher (Yang et al. 2019)."""

    def __init__(self, scores: int) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        return losses.top_score_difference(output.logits, scores=self.scores).mean()


class Logits(Term):
    """Half the squared distance of the logits (logit regression; Ba and Caruana 2014).

    In units of each logit's deviation over the training set, if the teacher tells it.
    """

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        return losses.logit_regression(output.logits, logits_of(teacher), deviations=teacher.deviations).mean()
