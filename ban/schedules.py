"""Weights and learning rates over time: pure functions of where the training stands.

A learning-rate schedule returns a factor of `optimizer.lr`. There is no state to save.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class Plateau:
    """Multiplied by `factor` after every epoch whose validation result did not fall by `fall` or more.

    It is compared with the previous epoch's, as in the code of Kim et al. 2016, or with the best so far, as in
    PyTorch's example of a word language model (2017). The first `free` epochs are never judged.
    """

    factor: float
    fall: float = 0.0
    reference: Literal["best", "previous"] = "best"
    free: int = 1

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        history = progress.history
        drops = 0
        for epoch in range(max(1, self.free), len(history)):
            before = min(history[:epoch]) if self.reference == "best" else history[epoch - 1]
            fell = before - history[epoch]
            drops += not (fell > 0 and fell >= self.fall)
        return self.factor**drops


def ramp_up(part: float) -> float:
    """exp(−5 (1 − t)²) for t below 1, from 0.0067; 1 from there on."""
    return math.exp(-5 * (1 - min(1.0, part)) ** 2)


def ramp_down(part: float) -> float:
    """exp(−12.5 u²) for u above 0, down to 3.7 · 10⁻⁶ at u = 1; 1 before."""
    return math.exp(-12.5 * max(0.0, part) ** 2)


def _at(progress: Progress, per_step: bool) -> float:
    """The finished part of the training, of steps or of whole epochs."""
    return progress.fraction if per_step else progress.epoch / progress.epochs


@dataclass(frozen=True)
class GaussianRampUp:
    """exp(−5 (1 − t)²) · `value`, t going from 0 to 1 over `length` of the training; 0 in the first epoch.

    Laine and Aila 2017 ramp over 80 of 300 epochs. As a part of the training, so that it fits any length.
    """

    value: float
    length: float = 80 / 300
    per_step: bool = False
    """Tarvainen and Valpola 2017 ramp by steps, from the very first."""
    labelled: int | None = None
    examples: int = 1
    """`value` counts for a training set with all labels; with fewer it is multiplied by labelled / examples."""

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        if not self.per_step and progress.epoch == 0:
            return 0.0
        share = 1.0 if self.labelled is None else self.labelled / self.examples
        return share * self.value * ramp_up(_at(progress, self.per_step) / self.length)


@dataclass(frozen=True)
class GaussianRamps:
    """r · d: up over the first `up` of the training, down over its last `down` (Laine and Aila 2017).

    r = exp(−5 (1 − t)²), d = exp(−12.5 u²); theirs are 80 and 50 of 300 epochs, Tarvainen and Valpola's (2017) 40,000
    and 25,000 of 150,000 steps.
    """

    up: float = 80 / 300
    down: float = 50 / 300
    per_step: bool = False

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        at = _at(progress, self.per_step)
        return ramp_up(at / self.up) * ramp_down(1 - (1 - at) / self.down)


@dataclass(frozen=True)
class GaussianRampDown:
    """`start` · d + `end` · (1 − d), with the d of `GaussianRamps`: Adam's β₁ (Laine and Aila 2017)."""

    start: float = 0.9
    end: float = 0.5
    length: float = 50 / 300
    per_step: bool = False

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        down = ramp_down(1 - (1 - _at(progress, self.per_step)) / self.length)
        return self.start * down + self.end * (1 - down)


@dataclass(frozen=True)
class Linear:
    """From `start` in the first epoch to `end` in the last."""

    start: float
    end: float

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        return self.start + (self.end - self.start) * progress.epoch / max(1, progress.epochs - 1)
