"""Networks for tabular data."""

from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ban.interfaces import Output, up_to
from ban.models.head import Head
from ban.ranges import Positive, UpTo1000


class MLP(nn.Module):
    """`layers` hidden layers of `units` ReLUs and a linear output layer, with PyTorch's default initialisation.

    Features: `stage1`, `stage2`, … (the hidden layers) and `pooled` (the last one).

    Raises:
        ValueError: `units` or `layers` is less than 1.
    """

    def __init__(self, units: Positive, layers: UpTo1000 = 1, *, classes: int, features: int) -> None:
        super().__init__()
        if units < 1 or layers < 1:
            raise ValueError(f"units is {units} and layers {layers}; both must be 1 or more")
        widths = [features, *[units] * layers]
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(widths))
        self.head = Head(units, classes)

    def forward(self, inputs: Float[Tensor, "batch features"], state: Any = None, until: str | None = None) -> Output:
        """Logits and features, or only the features up to `until`."""
        features: dict[str, Tensor] = {}
        hidden = inputs
        for number, stage in enumerate(self.stages, 1):
            hidden = features[f"stage{number}"] = stage(hidden)
            if until == f"stage{number}":
                return up_to(features)
        features["pooled"] = hidden
        return Output(self.head(hidden), features)
