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
    """Half the squared distance from a regression of the student's layer `guided` to the teacher's layer `hint`.

    Romero et al. 2015. The regressor is a convolution without padding whose kernel maps one layer's shape to the
    other's: 1×1 if their sizes agree. The authors' ends in the non-linearity of the hint layer (maxout). This one is
    linear, optionally followed by batch normalisation (`norm`) and then a ReLU (`relu`).
    """

    regressor: nn.Module

    def __init__(self, guided: Text, hint: Text, norm: bool = False, relu: bool = False) -> None:
        super().__init__()
        self.guided, self.hint, self.norm, self.relu = guided, hint, norm, relu

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Make the regressor.

        Raises:
            ValueError: a layer does not exist or is not convolutional, or the hint is larger than the guided layer.
        """
        ours = feature(output.features, self.guided, "the student")
        theirs = feature(teacher.features, self.hint, "the teacher")
        if ours.ndim != 4 or theirs.ndim != 4:
            raise ValueError("hints need convolutional layers, [batch, channels, height, width]")
        kernel = (ours.shape[2] - theirs.shape[2] + 1, ours.shape[3] - theirs.shape[3] + 1)
        if min(kernel) < 1:
            raise ValueError(
                f"the hint '{self.hint}' of {list(theirs.shape[1:])} is larger than the guided layer "
                f"'{self.guided}' of {list(ours.shape[1:])}"
            )
        norm = [nn.BatchNorm2d(theirs.shape[1])] * self.norm
        convolution = nn.Conv2d(ours.shape[1], theirs.shape[1], kernel)
        self.regressor = nn.Sequential(convolution, *norm, *[nn.ReLU()] * self.relu)

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        ours = self.regressor(feature(output.features, self.guided, "the student"))
        return losses.hint_distance(ours, feature(teacher.features, self.hint, "the teacher")).mean()


class Flow(Term):
    """Squared distance between the student's and the teacher's FSP matrices of `pairs` of layers (Yim et al. 2017)."""

    def __init__(self, pairs: Annotated[Sequence[Annotated[Sequence[Text], Len(2, 2)]], MinLen(1)]) -> None:
        super().__init__()
        self.pairs = [(first, last) for first, last in pairs]

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Check the layers.

        Raises:
            ValueError: a layer does not exist, or student and teacher have different numbers of channels in it.
        """
        for name in [name for pair in self.pairs for name in pair]:
            ours = feature(output.features, name, "the student")
            theirs = feature(teacher.features, name, "the teacher")
            if ours.ndim != 4 or theirs.ndim != 4 or ours.shape[1] != theirs.shape[1]:
                raise ValueError(
                    f"FSP needs the same number of channels in '{name}', but the student has {ours.shape[1]} and the "
                    f"teacher {theirs.shape[1]}"
                )

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Squared Frobenius distances, summed over the pairs; mean over the batch."""
        distances = [
            (self._flow(output.features, pair, "the student") - self._flow(teacher.features, pair, "the teacher"))
            .square()
            .sum((1, 2))
            for pair in self.pairs
        ]
        return torch.stack(distances).sum(0).mean()

    def _flow(self, features: Mapping[str, Tensor] | None, pair: tuple[str, str], whose: str) -> Tensor:
        first, last = (feature(features, name, whose) for name in pair)
        return losses.fsp_matrix(first, last)
