"""A network for 8×8 digits, small enough to gain from a teacher's outputs when it has 100 labels."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ban.interfaces import Output, up_to
from ban.models.head import Head
from ban.ranges import Positive


class SmallConv(nn.Module):
    """conv3×3-BN-ReLU-max-pool, conv3×3-BN-ReLU, global average pooling, linear; PyTorch's default initialisation.

    `width` is the number of channels of the first convolution; the second has twice as many.
    Features: `stem` = `stage1` (before the max-pool), `stage2`, `pooled`.
    """

    def __init__(self, width: Positive = 8, *, classes: int, channels: int = 1) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.stage2 = nn.Sequential(
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.head = Head(2 * width, classes)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"], state: Any = None, until: str | None = None
    ) -> Output:
        """Logits and features, or only the features up to `until`."""
        first = self.stage1(inputs)
        features = {"stem": first, "stage1": first}
        if until == "stage1":
            return up_to(features)
        features["stage2"] = self.stage2(first)
        if until == "stage2":
            return up_to(features)
        features["pooled"] = features["stage2"].mean((2, 3))
        return Output(self.head(features["pooled"]), features)
