"""Two trained networks compared on the same test examples, which are the unit here. No torch.

Both predictions must be for the same examples. Intervals and p-values are about the choice of the test examples, for
these two networks. They say nothing about other repetitions of their trainings; `ban.report.statistics` does.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri  # pyright: ignore[reportMissingTypeStubs]

from ban.metrics import Predictions
from ban.report.statistics import LEVEL

RESAMPLES = 2_000
"""Of a bootstrap."""


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs, with a 95 % interval and the p-value of the hypothesis that there is no difference.

    The interval is infinite where a single example, or the only line of a text, says nothing about others.
    """

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Agreement:
    """How many test examples two networks classify right and wrong."""

    both_right: int
    only_first: int
    only_second: int
    neither: int
    same_class: int
    """Examples for which both predict the same class, right or wrong."""

    @property
    def count(self) -> int:
        """The test examples."""
        return self.both_right + self.only_first + self.only_second + self.neither

    @property
    def error(self) -> Difference:
        """The first network's error minus the second's, in points.

        The p-value is that of McNemar's exact test (1947), the interval that of Agresti and Min (2005): Wald's, with
        half an example added to each of the four cells.
        """
        first, second, n = self.only_first, self.only_second, self.count
        value = 100 * (second - first) / n
        moved, total = (second - first) / (n + 2), n + 2
        spread = math.sqrt(((first + second + 1) / total - moved**2) / total)
        width = float(ndtri(1 - LEVEL / 2)) * spread
        return Difference(value, 100 * (moved - width), 100 * (moved + width), mcnemar(first, second))


def mcnemar(first: int, second: int) -> float:
    """The two-sided exact p-value for `first` and `second` discordant examples (McNemar 1947)."""
    count = first + second
    return min(1.0, 2 * float(bdtr(min(first, second), count, 0.5))) if count else 1.0


def agreement(first: Predictions, second: Predictions) -> Agreement:
    """Of two classifiers."""
    targets = first["targets"]
    ours, theirs = (each["log_probabilities"].argmax(-1) for each in (first, second))
    right, other = ours == targets, theirs == targets
    cells = [right & other, right & ~other, ~right & other, ~right & ~other, ours == theirs]
    return Agreement(*(int(cell.sum()) for cell in cells))


def errors_by_class(first: Predictions, second: Predictions, classes: int) -> NDArray[np.float64]:
    """The first network's error minus the second's for each class, in points; 0 for a class without test examples."""
    targets = first["targets"]
    ours, theirs = (each["log_probabilities"].argmax(-1) != targets for each in (first, second))
    counts = np.bincount(targets, minlength=classes)
    moved = np.bincount(targets, ours.astype(float) - theirs.astype(float), classes)
    return 100 * moved / np.maximum(counts, 1)


def likelihood(first: Predictions, second: Predictions, end: int | None = None) -> Difference:
    """The first network's mean negative log-likelihood minus the second's, in nats.

    From a bootstrap of the test examples (Efron 1979), with percentile intervals. The words of a text are not
    independent: its lines are drawn, which end with the word number `end`.
    """
    targets = first["targets"]
    moved = _of_targets(second, targets) - _of_targets(first, targets)
    ends = np.arange(1, len(targets) + 1) if end is None else np.flatnonzero(targets == end) + 1
    bounds = np.unique([0, *ends[:-1]])
    sums, sizes = np.add.reduceat(moved, bounds), np.diff([*bounds, len(targets)])
    if len(sums) < 2:
        return Difference(float(moved.mean()), -math.inf, math.inf, 1.0)
    draws = np.random.default_rng(0)
    means = np.array([_drawn_mean(sums, sizes, draws) for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
    return Difference(float(moved.mean()), float(low), float(high), min(1.0, 2 * max(tail, 1 / RESAMPLES)))


def _drawn_mean(sums: NDArray[Any], sizes: NDArray[Any], draws: np.random.Generator) -> float:
    times = draws.multinomial(len(sums), np.full(len(sums), 1 / len(sums)))
    return float(times @ sums / (times @ sizes))


def _of_targets(predictions: Predictions, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    found = predictions["log_probabilities"].astype(np.float64)
    return found if found.ndim == 1 else np.take_along_axis(found, targets[:, None], -1)[:, 0]
