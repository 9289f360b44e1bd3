"""The forward pass of networks that consist of a stem, stages of blocks, and a linear layer."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ban.interfaces import Output, up_to
from ban.models.head import Head


class Staged(nn.Module):
    """A stem, stages of blocks, global average pooling, a linear layer.

    Features: `stem`, `stageN.first` (after the first block of a stage), `stageN`, `pooled`.

    Args:
        stem: maps images to the first stage's input.
        stages: one Sequential of blocks each.
        outputs: channels after the last stage.
        classes: the number of logits.
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Sequential], outputs: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = Head(outputs, classes)

    def last(self, hidden: Tensor) -> Tensor:
        """What is averaged over the image, from the output of the last stage."""
        return hidden

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"], state: Any = None, until: str | None = None
    ) -> Output:
        """Logits and features, or only the features up to `until`."""
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
        features["pooled"] = self.last(hidden).mean((2, 3))
        return Output(self.head(features["pooled"]), features)
