"""How the inputs of a network are normalised: in trainings, in predictions and in exported networks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn


class PixelNormalisation(nn.Module):
    """(x − mean) / std for each channel; `mean` and `std` in units of the stored bytes."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale = 1 / torch.tensor(std).view(1, -1, 1, 1)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", -torch.tensor(mean).view(1, -1, 1, 1) * scale)

    def forward(
        self, images: Num[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images in fp32."""
        return torch.addcmul(self.shift, images.float(), self.scale)


class FeatureScaling(nn.Module):
    """(x − low) / span for each feature, computed in fp64."""

    low: Tensor
    span: Tensor

    def __init__(self, low: Sequence[float], span: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64))
        self.register_buffer("span", torch.tensor(span, dtype=torch.float64))

    def forward(self, rows: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """Rows in fp32."""
        return ((rows.double() - self.low) / self.span).float()
