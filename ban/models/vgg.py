"""VGG networks (Simonyan and Zisserman 2015) with batch normalisation, for images of 32×32."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import Len
from torch import nn

from ban.models.initialisation import he_normal
from ban.models.staged import Staged
from ban.ranges import UpTo1000

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Staged):
    """Five groups of conv3×3-BN-ReLU with 64, 128, 256, 512 and 512 channels, as Tian et al. 2020 use them.

    `convolutions` are those of each group. The first group is the stem; the others are stages 1 to 4, of which the
    first three begin with a 2×2 max-pool. One linear layer on the average over the image replaces VGG's three, and the
    last pooling is left out, so that 4×4 positions are left of 32×32. Convolutions are drawn from N(0, 2 / fan_out),
    the linear layer from N(0, 0.01²).
    """

    def __init__(
        self, convolutions: Annotated[Sequence[UpTo1000], Len(5, 5)], *, classes: int, channels: int = 3
    ) -> None:
        stem = _group(channels, WIDTHS[0], convolutions[0])
        stages = [_group(*widths, count) for widths, count in zip(pairwise(WIDTHS), convolutions[1:], strict=True)]
        for stage in stages[:-1]:
            stage[0] = nn.Sequential(nn.MaxPool2d(2), stage[0])
        super().__init__(stem, stages, WIDTHS[-1], classes)
        he_normal(self)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)


def _group(inputs: int, outputs: int, count: int) -> nn.Sequential:
    kinds = pairwise([inputs, *[outputs] * count])
    return nn.Sequential(
        *(nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in kinds)
    )
