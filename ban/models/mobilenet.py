"""MobileNetV2 for images of 32×32, as Tian et al. 2020 use it."""

from typing import Any

from torch import nn

from ban.models.initialisation import he_normal
from ban.models.libraries import Classifier
from ban.ranges import Positive, PositiveNumber

BLOCKS = ((1, 16, 1, 1), (0, 24, 2, 1), (0, 32, 3, 2), (0, 64, 4, 2), (0, 96, 3, 1), (0, 160, 3, 2), (0, 320, 1, 1))
"""Expansion (0: that of the network), channels at width 1, blocks, stride of the first one."""


class MobileNetV2(Classifier):
    """torchvision's MobileNetV2 (Sandler et al. 2018), whose second group keeps the size. Without dropout.

    `expansion` is the factor by which blocks widen their input, and `width` that of all channels. The first block has
    a 1×1 convolution too, although it does not widen its input.
    """

    library = "torchvision"

    def __init__(
        self, width: PositiveNumber = 0.5, expansion: Positive = 6, *, classes: int, channels: int = 3
    ) -> None:
        from torchvision.models import MobileNetV2 as Network
        from torchvision.ops import Conv2dNormActivation

        settings = [[each[0] or expansion, *each[1:]] for each in BLOCKS]
        network: Any = Network(classes, width, settings, round_nearest=4, dropout=0.0)
        stem = network.features[0][0]
        network.features[0][0] = nn.Conv2d(channels, stem.out_channels, 3, 2, padding=1, bias=False)
        added = Conv2dNormActivation(stem.out_channels, stem.out_channels, 1, activation_layer=nn.ReLU6)
        network.features[1].conv.insert(0, added)
        he_normal(network)
        stages = [("features.2", "features.3"), ("features.4", "features.6")]
        stages += [("features.7", "features.13"), ("features.14", "features.17")]
        super().__init__("MobileNetV2", network, "classifier.1", stages, channels_last=False)
