"""Networks for rows of features."""

from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ban.interfaces import Output, up_to


class MLP(nn.Module):
    """Hidden layers of equally many units, linear and ReLU each, then linear; PyTorch's own initialisation.

    Features: `stage1`, `stage2`, … for each hidden layer, and `pooled`, the last.
    """

    def __init__(self, units: int, layers: int = 1, *, classes: int, features: int) -> None:
        """Builds the layers.

        Raises:
            ValueError: there is no hidden layer, or no unit in it.
        """
        super().__init__()
        if units < 1 or layers < 1:
            raise ValueError(f"units is {units} and layers {layers}; both must be 1 or more")
        widths = [features, *[units] * layers]
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(widths))
        self.head = nn.Linear(units, classes)

    def forward(self, inputs: Float[Tensor, "batch features"], state: Any = None, until: str | None = None) -> Output:
        """Logits and features; no more than the features up to `until`."""
        features, hidden = {}, inputs
        for number, stage in enumerate(self.stages, 1):
            hidden = features[f"stage{number}"] = stage(hidden)
            if until == f"stage{number}":
                return up_to(features)
        features["pooled"] = hidden
        return Output(self.head(hidden), features)
