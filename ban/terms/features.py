"""Loss terms that compare hidden activations."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Len, MinLen
from jaxtyping import Float
from torch import Tensor, nn

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, feature
from ban.ranges import Text


class Hint(Term):
    """Squared distance of a regression of the student's layer `guided` to the teacher's `hint`: half, or its `mean`.

    Romero et al. 2015. The regressor is a convolution without padding whose kernel maps one layer's shape to the
    other's: 1×1 if their sizes agree. To a hint of twice the height and width it is a transposed convolution of 4×4.
    The authors' ends in the non-linearity of the hint layer (maxout). This one is linear, optionally followed by batch
    normalisation (`norm`) and then a ReLU (`relu`). `mean` takes the mean square over the layer's activations instead
    of half the sum, as the code of Tian et al. 2020 does.
    """

    regressor: nn.Module

    def __init__(self, guided: Text, hint: Text, norm: bool = False, relu: bool = False, mean: bool = False) -> None:
        super().__init__()
        self.guided, self.hint, self.norm, self.relu, self.mean = guided, hint, norm, relu, mean

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Make the regressor.

        Raises:
            ValueError: a layer does not exist or is not convolutional, or the hint is larger than the guided layer, but
                not twice as high and wide.
        """
        ours = feature(output.features, self.guided, "the student")
        theirs = feature(teacher.features, self.hint, "the teacher")
        if ours.ndim != 4 or theirs.ndim != 4:
            raise ValueError("hints need convolutional layers, [batch, channels, height, width]")
        kernel = (ours.shape[2] - theirs.shape[2] + 1, ours.shape[3] - theirs.shape[3] + 1)
        doubled = theirs.shape[2:] == (2 * ours.shape[2], 2 * ours.shape[3])
        if min(kernel) < 1 and not doubled:
            raise ValueError(
                f"the hint '{self.hint}' of {list(theirs.shape[1:])} is larger than the guided layer "
                f"'{self.guided}' of {list(ours.shape[1:])}"
            )
        norm = [nn.BatchNorm2d(theirs.shape[1])] * self.norm
        channels = ours.shape[1], theirs.shape[1]
        convolution = nn.ConvTranspose2d(*channels, 4, 2, 1) if doubled else nn.Conv2d(*channels, kernel)
        self.regressor = nn.Sequential(convolution, *norm, *[nn.ReLU()] * self.relu)

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        ours = self.regressor(feature(output.features, self.guided, "the student"))
        distance = losses.hint_distance(ours, feature(teacher.features, self.hint, "the teacher")).mean()
        return 2 / ours[0].numel() * distance if self.mean else distance


class Flow(Term):
    """Squared distance between the student's and the teacher's FSP matrices of `pairs` of layers (Yim et al. 2017).

    `mean` takes the mean over a matrix's entries instead of their sum, as the code of Tian et al. 2020 does.
    """

    def __init__(
        self, pairs: Annotated[Sequence[Annotated[Sequence[Text], Len(2, 2)]], MinLen(1)], mean: bool = False
    ) -> None:
        super().__init__()
        self.pairs, self.mean = [(first, last) for first, last in pairs], mean

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Check the layers.

        Raises:
            ValueError: a layer does not exist, or student and teacher have different numbers of channels in it.
        """
        for name in [name for pair in self.pairs for name in pair]:
            ours = feature(output.features, name, "the student")
            theirs = feature(teacher.features, name, "the teacher")
            if ours.ndim != 4 or theirs.ndim != 4:
                raise ValueError(
                    f"FSP needs convolutional layers, [batch, channels, height, width], and '{name}' is none"
                )
            if ours.shape[1] != theirs.shape[1]:
                raise ValueError(
                    f"FSP needs the same number of channels in '{name}', but the student has {ours.shape[1]} and the "
                    f"teacher {theirs.shape[1]}"
                )

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Squared distances of the matrices, summed over the pairs; mean over the batch."""
        squares = [
            (
                self._flow(output.features, pair, "the student") - self._flow(teacher.features, pair, "the teacher")
            ).square()
            for pair in self.pairs
        ]
        distances = [each.mean((1, 2)) if self.mean else each.sum((1, 2)) for each in squares]
        return torch.stack(distances).sum(0).mean()

    def _flow(self, features: Mapping[str, Tensor] | None, pair: tuple[str, str], whose: str) -> Tensor:
        first, last = (feature(features, name, whose) for name in pair)
        return losses.fsp_matrix(first, last)
