"""Densely connected networks with bottlenecks and compression (DenseNet-BC; Huang et al. 2017)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ban.interfaces import Output, up_to
from ban.models.head import Head
from ban.models.initialisation import initialise
from ban.ranges import Fraction, Positive, PositiveNumber, UpTo1000


@contextmanager
def _frozen_statistics(norm: nn.BatchNorm2d) -> Iterator[None]:
    """Keep the running statistics as they are: a recomputed forward pass must not count its batch twice."""
    momentum, norm.momentum = norm.momentum, 0.0
    batches, norm.num_batches_tracked = norm.num_batches_tracked, None
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, batches


def _checkpoint_contexts(
    norm: nn.BatchNorm2d,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _frozen_statistics(norm)


class Unit(nn.Module):
    """BN-ReLU-conv1×1 (4 · growth) – BN-ReLU-conv3×3 (growth) on the concatenation of all earlier outputs of the block.

    With `checkpointing`, the wide activations before the 1×1 convolution, which take most of a DenseNet's memory, are
    recomputed in the backward pass instead of stored (Pleiss et al. 2017).
    """

    def __init__(self, inputs: int, growth: int, dropout: float, checkpointing: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.checkpointing = checkpointing

    def bottleneck(self, *earlier: Tensor) -> Tensor:
        """The 1×1 convolution of the earlier outputs."""
        return self.conv1(F.relu(self.norm1(torch.cat(earlier, 1))))

    def forward(self, earlier: list[Tensor]) -> Tensor:
        """New activations, `[batch, growth, height, width]`."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            narrow = checkpoint(
                self.bottleneck,
                *earlier,
                use_reentrant=False,
                preserve_rng_state=False,  # nothing random inside
                context_fn=partial(_checkpoint_contexts, self.norm1),
            )
        else:
            narrow = self.bottleneck(*earlier)
        return self.dropout(self.conv2(F.relu(self.norm2(narrow))))


class DenseNet(nn.Module):
    """Three dense blocks of `units` units with growth rate `growth`, after a stem of `stem` or 2 · growth channels.

    After each of the first two blocks, BN-ReLU-conv1×1 keeps the fraction `compression` of the channels and average
    pooling halves the size. With `compress_last` such a convolution, without pooling, also follows the third block.
    Only then do the parameter counts agree with Furlanello et al. 2018 (90-60, 80-80, 80-120).

    Features: `stem`, `stage1` … `stage3` (after the 1×1 convolution, before the pooling), `pooled`.
    """

    def __init__(  # noqa: PLR0913 – flat arguments, as in the YAML
        self,
        units: UpTo1000,
        growth: Positive,
        compression: PositiveNumber = 0.5,
        compress_last: bool = False,
        dropout: Fraction = 0.0,
        checkpointing: bool = False,
        stem: Positive | None = None,
        *,
        classes: int,
        channels: int = 3,
    ) -> None:
        super().__init__()
        width = stem or 2 * growth
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.blocks, self.compressions = nn.ModuleList(), nn.ModuleList()
        for number in range(3):
            block = nn.ModuleList(Unit(width + unit * growth, growth, dropout, checkpointing) for unit in range(units))
            self.blocks.append(block)
            width += units * growth
            if number < 2 or compress_last:
                narrow = int(width * compression)
                conv = nn.Conv2d(width, narrow, 1, bias=False)
                self.compressions.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), conv))
                width = narrow
            else:
                self.compressions.append(nn.Identity())
        self.norm = nn.BatchNorm2d(width)
        self.head = Head(width, classes)
        initialise(self, fan="out")

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"], state: Any = None, until: str | None = None
    ) -> Output:
        """Logits and features, or only the features up to `until`."""
        features = {"stem": self.stem(inputs)}
        hidden = features["stem"]
        for number, (block, compress) in enumerate(zip(self.blocks, self.compressions, strict=True), start=1):
            if number > 1:
                hidden = F.avg_pool2d(hidden, 2)
            grown = [hidden]
            for unit in block:  # pyright: ignore[reportGeneralTypeIssues] -- a ModuleList
                grown.append(unit(grown))
            features[f"stage{number}.first"] = grown[1]
            hidden = features[f"stage{number}"] = compress(torch.cat(grown, 1))
            if until == f"stage{number}":
                return up_to(features)
        features["pooled"] = F.relu(self.norm(hidden)).mean((2, 3))
        return Output(self.head(features["pooled"]), features)
