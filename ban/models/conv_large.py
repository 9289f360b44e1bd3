"""The network of the papers on semi-supervised learning (Laine and Aila 2017, table 5; Tarvainen and Valpola 2017)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ban.interfaces import Output, up_to
from ban.models.head import Head
from ban.ranges import Fraction, NonNegativeNumber, Share

SMALLEST = 12
"""The smallest image side in pixels: it leaves one position after two pools and the convolution without padding."""


class MeanOnlyNorm(nn.Module):
    """x − mean + bias per channel; the mean is a moving average in evaluation mode (Salimans and Kingma 2016)."""

    running_mean: Tensor

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, inputs: Float[Tensor, "batch channels *positions"]) -> Float[Tensor, "batch channels *positions"]:
        """Normalised inputs. In training mode the mean is over batch and positions, in fp32 and with gradient."""
        mean = self.running_mean
        if self.training:
            mean = inputs.mean([0, *range(2, inputs.ndim)], dtype=torch.float32)
            self.running_mean.lerp_(mean.detach(), self.momentum)
        shift = (self.bias - mean).to(inputs.dtype)
        return inputs + shift.view(-1, *[1] * (inputs.ndim - 2))


class ConvLarge(nn.Module):
    """Noise, 3 × conv3×3-128, 3 × conv3×3-256, conv3×3-512 without padding, conv1×1-256, conv1×1-128, mean, linear.

    Max-pooling and dropout follow the first two groups. Leaky ReLUs have slope 0.1. Dropout and the Gaussian noise on
    the input, of standard deviation `noise`, are active in training mode only. With `norm: weight`, as published, every
    layer has weight normalisation and mean-only batch normalisation. With `norm: batch`, the common substitute, batch
    normalisation follows each convolution. `momentum` is the weight of a new batch in the moving averages; the authors'
    0.999 is that of the old average. Images must have at least 12×12 pixels.

    Weights are initialised as in He et al. 2015, and the norms g are those of the initial weights. The authors also
    rescale each layer by its outputs for a first batch; this is left out, because networks are built without data.

    Features: `stem` (the first convolution), `stage1` … `stage3` (each before its pooling), `pooled`.
    """

    def __init__(
        self,
        norm: Literal["weight", "batch"] = "weight",
        noise: NonNegativeNumber = 0.15,
        dropout: Fraction = 0.5,
        momentum: Share = 0.001,
        *,
        classes: int,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.noise, self.norm, self.momentum = noise, norm, momentum
        self.dropout = nn.Dropout(dropout)
        self.stem = self._convolution(channels, 128, 3, padding=1)
        self.stage1 = nn.Sequential(*(self._convolution(width, 128, 3, padding=1) for width in (128, 128)))
        self.stage2 = nn.Sequential(*(self._convolution(width, 256, 3, padding=1) for width in (128, 256, 256)))
        self.stage3 = nn.Sequential(
            self._convolution(256, 512, 3), self._convolution(512, 256, 1), self._convolution(256, 128, 1)
        )
        self.head = self._head(128, classes)

    def _convolution(self, inputs: int, outputs: int, kernel: int, padding: int = 0) -> nn.Sequential:
        """A convolution with its normalisation and leaky ReLU."""
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        if self.norm == "weight":
            normalised = [weight_norm(convolution), MeanOnlyNorm(outputs, self.momentum)]
        else:
            normalised = [convolution, nn.BatchNorm2d(outputs, momentum=self.momentum)]
        return nn.Sequential(*normalised, nn.LeakyReLU(0.1))

    def _head(self, inputs: int, classes: int) -> nn.Module:
        linear = Head(inputs, classes, bias=self.norm == "batch")
        nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
        if self.norm == "weight":
            return nn.Sequential(weight_norm(linear), MeanOnlyNorm(classes, self.momentum))
        nn.init.zeros_(linear.bias)
        return linear

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"], state: Any = None, until: str | None = None
    ) -> Output:
        """Logits and features, or only the features up to `until`.

        Raises:
            ValueError: the images have fewer than 12×12 pixels.
        """
        if min(inputs.shape[2:]) < SMALLEST:
            size = "×".join(map(str, inputs.shape[2:]))
            raise ValueError(f"this network needs images of {SMALLEST}×{SMALLEST} pixels or more, not {size}")
        if self.training:
            inputs = inputs + self.noise * torch.randn_like(inputs)
        features = {"stem": self.stem(inputs)}
        hidden = features["stem"]
        for number, stage in enumerate((self.stage1, self.stage2, self.stage3), start=1):
            if number > 1:
                hidden = self.dropout(F.max_pool2d(hidden, 2))
            hidden = features[f"stage{number}"] = stage(hidden)
            if until == f"stage{number}":
                return up_to(features)
        features["pooled"] = hidden.mean((2, 3))
        return Output(self.head(features["pooled"]), features)
