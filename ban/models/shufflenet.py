"""ShuffleNets for images of 32×32, as Tian et al. 2020 use them: the stem is a 1×1 convolution without pooling."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ban.models.libraries import Classifier
from ban.models.staged import Staged

WIDTHS, BLOCKS, GROUPS = (24, 240, 480, 960), (4, 8, 4), 3


class ShuffleBlock(nn.Module):
    """Grouped conv1×1-BN-ReLU – shuffle – depthwise conv3×3-BN – grouped conv1×1-BN, and the input, ReLU.

    With `stride` 2, the average-pooled input is put beside the residual, otherwise added to it (Zhang et al. 2018,
    figure 2). The width inside is a quarter of the residual's. The network's very first convolution is not grouped.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = outputs - inputs if stride == 2 else outputs
        narrow, groups = wide // 4, 1 if inputs == WIDTHS[0] else GROUPS
        self.stride, self.groups = stride, groups
        self.conv1 = nn.Conv2d(inputs, narrow, 1, groups=groups, bias=False)
        self.norm1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, groups=narrow, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, wide, 1, groups=GROUPS, bias=False)
        self.norm3 = nn.BatchNorm2d(wide)

    def forward(self, inputs: Tensor) -> Tensor:
        """Of the same size, or of half of it."""
        residual = F.channel_shuffle(F.relu(self.norm1(self.conv1(inputs))), self.groups)
        residual = self.norm3(self.conv3(self.norm2(self.conv2(residual))))
        if self.stride == 1:
            return F.relu(residual + inputs)
        return F.relu(torch.cat([residual, F.avg_pool2d(inputs, 3, 2, padding=1)], 1))


class ShuffleNetV1(Staged):
    """ShuffleNet with three groups (Zhang et al. 2018): stages of 4, 8 and 4 blocks with 240, 480 and 960 channels."""

    def __init__(self, *, classes: int, channels: int = 3) -> None:
        stem = nn.Sequential(nn.Conv2d(channels, WIDTHS[0], 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        stages = [
            nn.Sequential(
                ShuffleBlock(inputs, outputs, 2), *(ShuffleBlock(outputs, outputs, 1) for _ in range(count - 1))
            )
            for (inputs, outputs), count in zip(pairwise(WIDTHS), BLOCKS, strict=True)
        ]
        super().__init__(stem, stages, WIDTHS[-1], classes)


class ShuffleNetV2(Classifier):
    """torchvision's ShuffleNetV2 of width 1 (Ma et al. 2018) with another stem."""

    library = "torchvision"

    def __init__(self, *, classes: int, channels: int = 3) -> None:
        from torchvision.models import ShuffleNetV2 as Network

        network = Network([4, 8, 4], [24, 116, 232, 464, 1024], classes)
        network.conv1[0] = nn.Conv2d(channels, 24, 1, bias=False)
        network.set_submodule("maxpool", nn.Identity())
        stages = [(f"stage{number}.0", f"stage{number}") for number in (2, 3, 4)]
        super().__init__("ShuffleNetV2", network, "fc", stages, channels_last=False)
