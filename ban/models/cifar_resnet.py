"""Residual networks with the activation after the sum (He et al. 2015), for images of 32×32."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from ban.models.initialisation import he_normal
from ban.models.resnet import Depth
from ban.models.staged import Staged
from ban.ranges import Positive


class BasicBlock(nn.Module):
    """conv3×3-BN-ReLU-conv3×3-BN, added to a shortcut, ReLU.

    If the shape changes, the shortcut is conv1×1-BN: option B of He et al. 2015.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        changes_shape = inputs != outputs or stride != 1
        projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs)) if changes_shape else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """The activated sum of residual and shortcut."""
        residual = F.relu(self.norm1(self.conv1(inputs)))
        return F.relu(self.norm2(self.conv2(residual)) + self.shortcut(inputs))


class CifarResNet(Staged):
    """ResNet-depth: conv3×3-BN-ReLU and three stages of (depth − 2) / 6 blocks (He et al. 2015, section 4.2).

    `widths` are the channels of the stem and of each stage; four times as many in ResNet-8×4 and 32×4 of Tian et al.
    2020. Convolutions are drawn from N(0, 2 / fan_out).

    Raises:
        ValueError: `depth` is not 6n + 2.
    """

    def __init__(
        self,
        depth: Depth,
        widths: Annotated[Sequence[Positive], Len(4, 4)] = (16, 16, 32, 64),
        *,
        classes: int,
        channels: int = 3,
    ) -> None:
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"the depth must be 6n + 2 (8, 14, 20, 32, 56, 110, …), not {depth}")
        stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        stages = []
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            first = BasicBlock(inputs, outputs, 2 if stage else 1)
            stages.append(nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))))
        super().__init__(nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.ReLU()), stages, widths[-1], classes)
        he_normal(self)
