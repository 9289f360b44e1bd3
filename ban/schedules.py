"""Learning rates, loss weights and Adam's β₁ over time, as pure functions of the training's progress.

A learning-rate schedule returns a factor of `optimizer.lr`. Schedules have no state, so checkpoints need not store any.
Durations are fractions of the whole training, so that a schedule fits any number of epochs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ban.interfaces import Progress
from ban.ranges import Fraction, NonNegative, NonNegativeNumber, Positive, Share


@dataclass(frozen=True)
class Constant:
    """`value` at every step."""

    value: float = 1.0

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        return self.value


@dataclass(frozen=True)
class Steps:
    """factorⁿ after n of the `milestones`, which are epochs counted from 1. The rate drops when a milestone starts.

    The authors of Wide-ResNets drop at the start of epoch 60 counted from 1 (Zagoruyko and Komodakis 2016, their code),
    one epoch before `MultiStepLR([60])`, which counts from 0. Momentum is kept across drops.
    """

    milestones: Sequence[NonNegative]
    factor: Share

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        return self.factor ** sum(progress.epoch + 1 >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class Cosine:
    """½ (1 + cos πt), from 1 to 0 as t goes from 0 to 1 (Loshchilov and Hutter 2017, without restarts).

    With a warm-up, the factor first rises linearly from `start` to 1 (Goyal et al. 2017); t counts from its end.
    """

    warmup: Fraction = 0.0
    """Share of the training."""
    start: Share = 0.1

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        if progress.fraction < self.warmup:
            return self.start + (1 - self.start) * progress.fraction / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress.fraction - self.warmup) / (1 - self.warmup)))


@dataclass(frozen=True)
class OneCycle:
    """Linear from `start` to 1 during the first `warmup` of the training, then linear to 0 (Smith 2018)."""

    warmup: Fraction = 0.3
    start: NonNegativeNumber = 0.04

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        elapsed = progress.fraction
        if elapsed < self.warmup:
            return self.start + (1 - self.start) * elapsed / self.warmup
        return (1 - elapsed) / (1 - self.warmup)


@dataclass(frozen=True)
class Plateau:
    """factorⁿ after n epochs whose validation metric did not improve, or improved by less than `fall`.

    An epoch is compared with the previous one, as in the code of Kim et al. 2016, or with the best one so far, as in
    PyTorch's word language model example (2017). The first `free` epochs never lower the rate.
    """

    factor: Share
    fall: NonNegativeNumber = 0.0
    reference: Literal["best", "previous"] = "best"
    free: NonNegative = 1

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        history = progress.history
        drops = 0
        for epoch in range(max(1, self.free), len(history)):
            before = min(history[:epoch]) if self.reference == "best" else history[epoch - 1]
            improvement = before - history[epoch]
            drops += not (improvement > 0 and improvement >= self.fall)
        return self.factor**drops


def ramp_up(t: float) -> float:
    """exp(−5 (1 − t)²) for t in [0, 1], from 0.0067 at 0 to 1 at 1; 1 for larger t."""
    return math.exp(-5 * (1 - min(1.0, t)) ** 2)


def ramp_down(u: float) -> float:
    """exp(−12.5 u²) for u in [0, 1], from 1 at 0 to 3.7 · 10⁻⁶ at 1; 1 for negative u."""
    return math.exp(-12.5 * max(0.0, u) ** 2)


def _elapsed(progress: Progress, per_step: bool) -> float:
    """The finished fraction of the training, counted in steps or in whole epochs."""
    return progress.fraction if per_step else progress.epoch / progress.epochs


@dataclass(frozen=True)
class GaussianRampUp:
    """`value` · exp(−5 (1 − t)²), t rising from 0 to 1 during the first `length` of the training; 0 in the first epoch.

    Laine and Aila 2017 ramp up over 80 of 300 epochs.
    """

    value: float
    length: Share = 80 / 300
    per_step: bool = False
    """Raise t at every step, the first epoch included (Tarvainen and Valpola 2017), instead of at every epoch."""
    labelled: Positive | None = None
    examples: Positive = 1
    """With `labelled` set, `value` is for a fully labelled training set and is multiplied by labelled / examples."""

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        if not self.per_step and progress.epoch == 0:
            return 0.0
        share = 1.0 if self.labelled is None else self.labelled / self.examples
        return share * self.value * ramp_up(_elapsed(progress, self.per_step) / self.length)


@dataclass(frozen=True)
class GaussianRamps:
    """exp(−5 (1 − t)²) · exp(−12.5 u²), up and then down (Laine and Aila 2017).

    t rises from 0 to 1 during the first `up` of the training, and u during its last `down`. Laine and Aila ramp over 80
    and 50 of 300 epochs, Tarvainen and Valpola (2017) over 40,000 and 25,000 of 150,000 steps.
    """

    up: Share = 80 / 300
    down: Share = 50 / 300
    per_step: bool = False

    def __call__(self, progress: Progress) -> float:
        """The factor at this step."""
        elapsed = _elapsed(progress, self.per_step)
        return ramp_up(elapsed / self.up) * ramp_down(1 - (1 - elapsed) / self.down)


@dataclass(frozen=True)
class GaussianRampDown:
    """`start` · d + `end` · (1 − d) with d = exp(−12.5 u²): Adam's β₁ (Laine and Aila 2017).

    u rises from 0 to 1 during the last `length` of the training.
    """

    start: float = 0.9
    end: float = 0.5
    length: Share = 50 / 300
    per_step: bool = False

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        d = ramp_down(1 - (1 - _elapsed(progress, self.per_step)) / self.length)
        return self.start * d + self.end * (1 - d)


@dataclass(frozen=True)
class WarmUp:
    """Linear from `value` / n in the first epoch to `value` in epoch n, and then `value`.

    n epochs are `length` of the training. Zhao et al. 2022 warm up over 20 of 240 epochs.
    """

    value: float = 1.0
    length: Share = 20 / 240

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        return self.value * min(1.0, (progress.epoch + 1) / (self.length * progress.epochs))


@dataclass(frozen=True)
class Linear:
    """Linear from `start` in the first epoch to `end` in the last."""

    start: float
    end: float

    def __call__(self, progress: Progress) -> float:
        """The value at this step."""
        return self.start + (self.end - self.start) * progress.epoch / max(1, progress.epochs - 1)
