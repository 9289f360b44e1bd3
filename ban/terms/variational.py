"""Variational information distillation."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt, MinLen
from jaxtyping import Float
from torch import Tensor, nn

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, feature
from ban.ranges import PositiveNumber, Text


class Variational(Term):
    """Negative log-likelihood of the teacher's layers under Gaussians whose means are predicted from the student's.

    Ahn et al., CVPR 2019: a lower bound of the mutual information of the two layers. The mean is three 1×1 convolutions
    of the student's layer, with ReLUs between them and the teacher's number of channels. The variance of each channel
    is softplus(α) + 1e-5, and begins as `variance`. Of two layers of different sizes, the larger is average-pooled. Sum
    over `layers`, mean over batch, channels and positions, as in the code of Tian et al. 2020.
    """

    regressors: nn.ModuleList
    alphas: nn.ParameterList

    def __init__(
        self,
        layers: Annotated[Sequence[Text], MinLen(1)],
        variance: Annotated[PositiveNumber, Gt(losses.SMALLEST_VARIANCE)] = 5.0,
    ) -> None:
        super().__init__()
        self.layers, self.variance = layers, variance

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Make the regressors and the variances.

        Raises:
            ValueError: a layer does not exist or is not convolutional.
        """
        self.regressors, self.alphas = nn.ModuleList(), nn.ParameterList()
        for name in self.layers:
            ours, theirs = self._pair(name, output, teacher)
            channels = theirs.shape[1]
            sizes = [ours.shape[1], channels, channels, channels]
            made = [nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise(sizes)]
            self.regressors.append(nn.Sequential(made[0], nn.ReLU(), made[1], nn.ReLU(), made[2]))
            start = torch.full((channels,), self.variance - losses.SMALLEST_VARIANCE)
            self.alphas.append(nn.Parameter(start + (-torch.expm1(-start)).log()))  # the inverse of softplus

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Sum over the layers."""
        found = []
        for name, regressor, alpha in zip(self.layers, self.regressors, self.alphas, strict=True):
            ours, theirs = self._pair(name, output, teacher)
            found.append(losses.gaussian_nll(regressor(ours), theirs, F.softplus(alpha)[:, None, None]).mean())
        return torch.stack(found).sum()

    def _pair(self, name: str, output: Output, teacher: TeacherOutput) -> tuple[Tensor, Tensor]:
        """The student's and the teacher's layer, in one size."""
        ours, theirs = feature(output.features, name, "the student"), feature(teacher.features, name, "the teacher")
        if ours.ndim != 4 or theirs.ndim != 4:
            raise ValueError(f"VID needs convolutional layers, [batch, channels, height, width], and '{name}' is none")
        height, width = [min(sides) for sides in zip(ours.shape[2:], theirs.shape[2:], strict=True)]
        return F.adaptive_avg_pool2d(ours, (height, width)), F.adaptive_avg_pool2d(theirs, (height, width))
