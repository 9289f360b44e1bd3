"""Weights and learning rates over time: pure functions of where the training stands.

A learning-rate schedule returns a factor of `optimizer.lr`. There is no state to save.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ban.interfaces import Progress


@dataclass(frozen=True)
class Constant:
    """Always the same."""

    value: float = 1.0

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        return self.value


@dataclass(frozen=True)
class Steps:
    """Multiplied by `factor` at the start of each of the `milestones` (epochs, counted from 1).

    The authors of Wide-ResNets drop at the start of epoch number 60 counted from 1 (Zagoruyko and Komodakis 2016,
    their code), one epoch before what `MultiStepLR([60])` does with epochs from 0. Momentum is kept across drops.
    """

    milestones: Sequence[int]
    factor: float

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        return self.factor ** sum(progress.epoch + 1 >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to 0 over the whole training (Loshchilov and Hutter 2017, without restarts)."""

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        return 0.5 * (1 + math.cos(math.pi * progress.fraction))


@dataclass(frozen=True)
class OneCycle:
    """Linearly from `start` to 1 during the first `warmup` of the training, then linearly to 0 (Smith 2018)."""

    warmup: float = 0.3
    start: float = 0.04

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        at = progress.fraction
        if at < self.warmup:
            return self.start + (1 - self.start) * at / self.warmup
        return (1 - at) / (1 - self.warmup)
