"""Wide residual networks (Zagoruyko and Komodakis, 2016)."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ban.interfaces import Output, up_to
from ban.models.initialisation import initialise


class Block(nn.Module):
    """BN-ReLU-conv3×3-BN-ReLU-dropout-conv3×3 beside a shortcut.

    Where the shape changes, the first BN-ReLU comes before the split, so that the 1×1 shortcut sees the activated
    input, as in the authors' code.
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
        """The residual sum."""
        activated = F.relu(self.norm1(inputs))
        residual = self.conv1(activated)
        residual = self.conv2(self.dropout(F.relu(self.norm2(residual))))
        return residual + (inputs if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """WRN-depth-width: three stages of (depth − 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    Features: `stem`, `stage1` … `stage3` (the residual sums), `pooled`.

    Raises:
        ValueError: depth is not 6n + 4.
    """

    def __init__(self, depth: int, width: int, dropout: float = 0.0, *, classes: int, channels: int = 3) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"a Wide-ResNet's depth must be 6n + 4 (10, 16, 22, 28, …), not {depth}")
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        stages, inputs = [], 16
        for index in range(3):
            outputs = 16 * width * 2**index
            stride = 1 if index == 0 else 2
            first = Block(inputs, outputs, stride, dropout)
            others = [Block(outputs, outputs, 1, dropout) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *others))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, classes)
        initialise(self, fan="in")

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"], state: Any = None, until: str | None = None
    ) -> Output:
        """Logits and features; no more than the features up to `until`."""
        features = {"stem": self.stem(inputs)}
        hidden = features["stem"]
        for number, stage in enumerate(self.stages, start=1):
            first, *others = stage  # pyright: ignore[reportGeneralTypeIssues] -- a Sequential
            hidden = features[f"stage{number}.first"] = first(hidden)
            for block in others:
                hidden = block(hidden)
            features[f"stage{number}"] = hidden
            if until == f"stage{number}":
                return up_to(features)
        features["pooled"] = F.relu(self.norm(hidden)).mean((2, 3))
        return Output(self.head(features["pooled"]), features)
