"""Initial weights as in the authors' code."""

import math
from typing import Literal

from torch import nn


def initialise(network: nn.Module, fan: Literal["in", "out"]) -> None:
    """Draw convolutions from N(0, 2 / fan), and set the biases of linear layers to 0, keeping PyTorch's weights.

    `fan` is the kernel area times the number of input channels ("in", as in Wide-ResNet's code) or of output channels
    ("out", as in DenseNet's code).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            channels = module.in_channels if fan == "in" else module.out_channels
            kernel = module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=math.sqrt(2 / (kernel * channels)))
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def he_normal(network: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / fan_out) (He et al. 2015), with biases of 0; all else keeps its weights."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
