"""Factor transfer in two trainings: of a paraphraser of the teacher's layer, then of the student (Kim et al. 2018)."""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, feature
from ban.ranges import PositiveNumber, Text


def _layers(*channels: int) -> nn.Sequential:
    """3×3 convolutions, each followed by a leaky ReLU."""
    made = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1)) for a, b in pairwise(channels)]
    return nn.Sequential(*made)


class Paraphrase(Term):
    """Squared distance from the teacher's layer to what a `paraphraser` and a decoder make of it.

    Kim, Park and Kwak 2018, Paraphrasing complex network, §3.1. The paraphraser maps the layer's channels to `rate`
    times as many, its factors. Labels and the student are not used.
    """

    paraphraser: nn.Sequential
    decoder: nn.Sequential

    def __init__(self, layer: Text, rate: PositiveNumber = 0.5) -> None:
        super().__init__()
        self.layer, self.rate = layer, rate

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Make paraphraser and decoder.

        Raises:
            ValueError: the layer does not exist or is not convolutional.
        """
        channels = self._theirs(teacher).shape[1]
        factors = max(1, int(self.rate * channels))
        self.paraphraser = _layers(channels, channels, factors, factors)
        self.decoder = _layers(factors, factors, channels, channels)

    def _theirs(self, teacher: TeacherOutput) -> Tensor:
        return _maps(feature(teacher.features, self.layer, "the teacher"), self.layer)

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over batch, channels and positions."""
        theirs = self._theirs(teacher)
        return F.mse_loss(self.decoder(self.paraphraser(theirs)), theirs)


class Factors(Paraphrase):
    """Distance of the student's factors, which a translator makes of its layer, to those of the `paraphraser`.

    Kim, Park and Kwak 2018, eq. 3 and 4, with p₁ = 2 and p₂ = 1 as in the code of Tian et al. 2020. The paraphraser is
    that of the pre-training and stays as it is. The translator has the same layers and is trained with the student.
    """

    pretrained = ("paraphraser",)
    translator: nn.Sequential

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Make the translator, and room for the paraphraser.

        Raises:
            ValueError: a layer does not exist or is not convolutional.
        """
        super().prepare(output, teacher)
        del self.decoder
        self.paraphraser.requires_grad_(False)
        channels, factors = self._ours(output).shape[1], max(1, int(self.rate * self._theirs(teacher).shape[1]))
        self.translator = _layers(channels, channels, factors, factors)  # pyright: ignore[reportArgumentType]

    def _ours(self, output: Output) -> Tensor:
        return _maps(feature(output.features, self.layer, "the student"), self.layer)

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over batch and positions."""
        factors = self.translator(self._ours(output)), self.paraphraser(self._theirs(teacher))
        return losses.factor_distance(*factors).mean()


def _maps(layer: Tensor, name: str) -> Tensor:
    if layer.ndim != 4:
        raise ValueError(f"FT needs a convolutional layer, [batch, channels, height, width], and '{name}' is none")
    return layer
