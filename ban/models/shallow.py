"""A shallow, wide network: one hidden layer after one convolution (Ba and Caruana 2014)."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch.nn.functional as F
from annotated_types import Len
from jaxtyping import Float
from torch import Tensor, nn

from ban.interfaces import Output, up_to
from ban.models.head import Head
from ban.ranges import Positive


class Shallow(nn.Module):
    """conv-ReLU-max-pool, `bottleneck` linear units, `units` ReLUs, linear. `size` is the images' height and width.

    The bottleneck has no non-linearity: together with the next layer it is one matrix of rank `bottleneck`, with far
    fewer weights. Two details are inferred from the published 54 and 70 million parameters: the convolution keeps the
    image size, and the pooling is 3×3 with stride 2. The kernel size of 5 and the ReLU after the convolution are our
    choice. No dropout; PyTorch's default initialisation.

    Features: `stem` (the convolution), `stage1` (pooled), `stage2` (the linear units), `pooled` (the ReLUs).
    """

    def __init__(
        self,
        filters: Positive,
        kernel: Positive,
        bottleneck: Positive,
        units: Positive,
        size: Annotated[Sequence[Positive], Len(2, 2)],
        *,
        classes: int,
        channels: int = 3,
    ) -> None:
        super().__init__()
        height, width = ((side - 1) // 2 for side in size)
        self.convolution = nn.Conv2d(channels, filters, kernel, padding=kernel // 2)
        self.bottleneck = nn.Linear(filters * height * width, bottleneck, bias=False)
        self.hidden = nn.Linear(bottleneck, units)
        self.head = Head(units, classes)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"], state: Any = None, until: str | None = None
    ) -> Output:
        """Logits and features, or only the features up to `until`."""
        features = {"stem": F.relu(self.convolution(inputs))}
        features["stage1"] = F.max_pool2d(features["stem"], 3, stride=2)
        if until == "stage1":
            return up_to(features)
        features["stage2"] = self.bottleneck(features["stage1"].flatten(1))
        if until == "stage2":
            return up_to(features)
        features["pooled"] = F.relu(self.hidden(features["stage2"]))
        return Output(self.head(features["pooled"]), features)
