"""Initial weights as in the authors' codes."""

import math
from typing import Literal

from torch import nn


def initialise(network: nn.Module, fan: Literal["in", "out"]) -> None:
    """Convolutions from N(0, 2 / fan), linear layers as PyTorch draws them but with zero bias.

    `fan` is the number of inputs of an output pixel (Wide-ResNet's code) or the number of output pixels that an input
    feeds (DenseNet's code), kernel size included.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            channels = module.in_channels if fan == "in" else module.out_channels
            kernel = module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=math.sqrt(2 / (kernel * channels)))
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
