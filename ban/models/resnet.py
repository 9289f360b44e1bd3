"""Residual networks of pre-activation blocks (He et al. 2016), including Wide-ResNets."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Le, Len
from torch import Tensor, nn

from ban.models.initialisation import initialise
from ban.models.staged import Staged
from ban.ranges import Fraction, Positive, PositiveNumber, UpTo1000

Depth = Annotated[Positive, Le(10_000)]


class Block(nn.Module):
    """BN-ReLU-conv3×3-BN-ReLU-dropout-conv3×3, added to a shortcut (Zagoruyko and Komodakis 2016).

    If the shape changes, the shortcut is a 1×1 convolution of the activated input, after the first BN-ReLU, as in the
    authors' code.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes_shape = inputs != outputs or stride != 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes_shape else None

    def forward(self, inputs: Tensor) -> Tensor:
        """The sum of residual and shortcut."""
        activated = F.relu(self.norm1(inputs))
        residual = self.conv1(activated)
        residual = self.conv2(self.dropout(F.relu(self.norm2(residual))))
        return residual + (inputs if self.shortcut is None else self.shortcut(activated))


class Bottleneck(nn.Module):
    """BN-ReLU-conv1×1 – BN-ReLU-conv3×3 – BN-ReLU-conv1×1 with a quarter of the width inside; shortcut as in `Block`.

    He et al. 2016, Identity mappings in deep residual networks.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        narrow = outputs // 4
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, narrow, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, outputs, 1, bias=False)
        changes_shape = inputs != outputs or stride != 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes_shape else None

    def forward(self, inputs: Tensor) -> Tensor:
        """The sum of residual and shortcut."""
        activated = F.relu(self.norm1(inputs))
        residual = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        residual = self.conv3(F.relu(self.norm3(residual)))
        return residual + (inputs if self.shortcut is None else self.shortcut(activated))


class ResNet(Staged):
    """A 3×3 convolution, stages of pre-activation blocks, BN-ReLU, global average pooling, a linear layer."""

    def __init__(self, stem: int, stages: Sequence[nn.Sequential], outputs: int, classes: int, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, stem, 3, padding=1, bias=False), stages, outputs, classes)
        self.norm = nn.BatchNorm2d(outputs)
        initialise(self, fan="in")

    def last(self, hidden: Tensor) -> Tensor:
        """See `Staged`."""
        return F.relu(self.norm(hidden))


class WideResNet(ResNet):
    """WRN-depth-width: three stages of (depth − 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    Zagoruyko and Komodakis 2016. Batch normalisation starts with the scale 1 everywhere (`norm_scale: ones`), as in
    PyTorch since version 1.2. With `norm_scale: uniform` it is drawn from U(0, 1), as in the authors' PyTorch code and
    as PyTorch did when the networks of Furlanello et al. 2018 were trained; docs/results.md compares the two.

    Raises:
        ValueError: `depth` is not 6n + 4.
    """

    def __init__(
        self,
        depth: Depth,
        width: Positive,
        dropout: Fraction = 0.0,
        norm_scale: Literal["ones", "uniform"] = "ones",
        *,
        classes: int,
        channels: int = 3,
    ) -> None:
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"a Wide-ResNet's depth must be 6n + 4 (10, 16, 22, 28, …), not {depth}")
        widths, stages = [16, 16 * width, 32 * width, 64 * width], []
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            first = Block(inputs, outputs, 2 if stage else 1, dropout)
            stages.append(nn.Sequential(first, *(Block(outputs, outputs, 1, dropout) for _ in range(blocks - 1))))
        super().__init__(16, stages, widths[-1], classes, channels)
        if norm_scale == "uniform":  # drawn last, so that all other weights are those of `ones`
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight)


class PreActivationResNet(ResNet):
    """Three stages of (depth − 2) / 9 bottleneck blocks with 64, 128 and 256 channels, for images of 32×32.

    He et al. 2016, who train 1001 layers.

    Raises:
        ValueError: `depth` is not 9n + 2.
    """

    def __init__(self, depth: Depth, *, classes: int, channels: int = 3) -> None:
        blocks, rest = divmod(depth - 2, 9)
        if rest or blocks < 1:
            raise ValueError(f"a pre-activation ResNet's depth must be 9n + 2 (29, 164, 1001, …), not {depth}")
        stages = []
        for stage, (inputs, outputs) in enumerate(pairwise([16, 64, 128, 256])):
            first = Bottleneck(inputs, outputs, 2 if stage else 1)
            stages.append(nn.Sequential(first, *(Bottleneck(outputs, outputs, 1) for _ in range(blocks - 1))))
        super().__init__(16, stages, 256, classes, channels)


class DenseShapedResNet(ResNet):
    """A ResNet that can share the first and the last layer of a DenseNet (Furlanello et al. 2018, table 5).

    Each dense block is replaced by `blocks` residual blocks and BN-ReLU-conv1×1. `stem` is the number of channels of
    the DenseNet's stem, and `widths` are those that its 1×1 convolutions leave after each block. The residual blocks
    are `ratio` times as wide, and the 1×1 convolution brings the width back. Average pooling halves the size between
    stages. The parameter counts agree with those of the paper's Wide-ResNet students.
    """

    def __init__(
        self,
        blocks: UpTo1000,
        ratio: PositiveNumber,
        bottleneck: bool,
        stem: Positive,
        widths: Annotated[Sequence[Positive], Len(3, 3)],
        *,
        classes: int,
        channels: int = 3,
    ) -> None:
        stages = []
        for stage, (inputs, outputs) in enumerate(pairwise([stem, *widths])):
            wide = int(ratio * outputs)
            kinds = [inputs, *[wide] * blocks]
            made = [Bottleneck(a, b, 1) if bottleneck else Block(a, b, 1, dropout=0.0) for a, b in pairwise(kinds)]
            first = nn.Sequential(nn.AvgPool2d(2), made[0]) if stage else made[0]
            narrow = nn.Conv2d(wide, outputs, 1, bias=False)
            stages.append(nn.Sequential(first, *made[1:], nn.Sequential(nn.BatchNorm2d(wide), nn.ReLU(), narrow)))
        super().__init__(stem, stages, widths[-1], classes, channels)
