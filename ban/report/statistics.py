"""Means, intervals and verdicts over repeated trainings, some of which may share random numbers. No torch.

SciPy is imported where a distribution is needed: that takes longer than all else in a table of one seed.

Trainings that share a teacher or a random stream are not independent. They form a cluster: values are averaged within a
cluster first, and the clusters are what an interval counts.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""Of significance. Intervals hold 1 − LEVEL."""
MOST_NEEDED = 10_000
"""Clusters that `Interval.needed` names at most."""
Streams = AbstractSet[Hashable]
"""Names of all that a training draws its random numbers from, its teachers' included."""


@dataclass(frozen=True)
class Interval:
    """Mean of clusters of trainings, and half the width of its 95 % confidence interval (Student's t)."""

    mean: float
    half_width: float | None
    """None: there is one cluster only. 0: all clusters have the same value, up to rounding."""
    clusters: int
    count: int
    """The trainings, or pairs of trainings."""
    spread: float = 0.0
    """Standard deviation of one training: between clusters and within them."""

    @classmethod
    def of(cls, values: Sequence[float], streams: Sequence[Streams] | None = None) -> "Interval":
        """Of the values of trainings, and the streams of each; without streams they are independent."""
        numbers, cluster = np.asarray(values, float), np.arange(len(values))  # cluster: the index of each value's own
        if streams is not None:
            for index, members in enumerate(clusters(streams)):
                cluster[members] = index
        sizes = np.bincount(cluster)
        means = np.bincount(cluster, numbers) / sizes
        mean, count = float(means.mean()), len(means)
        if count < 2:
            return cls(mean, None, count, len(values))
        deviation = float(means.std(ddof=1))
        if deviation <= 1e-9 * float(np.abs(numbers).max()):  # equal but for rounding
            return cls(mean, 0.0, count, len(values))  # no spread is known, so nothing can be predicted
        # Law of total variance; the population variance of m values lacks the share 1/m that their mean has.
        variances = np.bincount(cluster, (numbers - means[cluster]) ** 2) / sizes
        spread = math.sqrt(deviation**2 + float(variances.mean()))
        return cls(mean, _quantile(count) * deviation / math.sqrt(count), count, len(values), spread)

    @property
    def p_value(self) -> float | None:
        """Of the hypothesis that the true mean is zero (two-sided t-test).

        None: there is no spread to judge by, because there is one cluster only, or all have the same value.
        """
        if not self.half_width:
            return None
        t = abs(self.mean) / self.half_width * _quantile(self.clusters)
        from scipy.special import stdtr  # pyright: ignore[reportMissingTypeStubs]

        return float(2 * stdtr(self.clusters - 1, -t))

    @property
    def prediction(self) -> float | None:
        """Half the width of the 95 % prediction interval of one more training.

        None for fewer than three clusters, or where all values are equal, which says nothing about the next.
        """
        if not self.half_width or self.clusters < 3:
            return None
        return math.hypot(self.half_width, _quantile(self.clusters) * self.spread)

    def needed(self, half_width: float) -> int | None:
        """The clusters whose mean would have so narrow an interval, at the spread so far.

        None if nothing is known of the spread, or more than `MOST_NEEDED` would be needed.
        """
        if not self.half_width:
            return None
        deviation = self.half_width / _quantile(self.clusters) * math.sqrt(self.clusters)
        counts = np.arange(2, MOST_NEEDED + 1)
        enough = _quantiles(counts) * deviation / np.sqrt(counts) <= half_width
        return int(counts[enough.argmax()]) if enough.any() else None

    def predicts(self, value: float) -> bool | None:
        """Whether `value` is inside the prediction interval; None if there is none."""
        return None if self.prediction is None else bool(abs(value - self.mean) <= self.prediction)

    def text(self, sign: bool = False) -> str:
        """Like 12.92 ± 0.65. Equal differences, which `sign` marks, get no interval: it would have no width."""
        mean = f"{self.mean:{'+' if sign else ''}.2f}"
        shown = self.half_width is not None and (self.half_width or not sign)
        return f"{mean} ± {self.half_width:.2f}" if shown else mean


def _quantile(count: int) -> float:
    return float(_quantiles(np.array(count)))


def _quantiles(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

    return stdtrit(counts - 1, 1 - LEVEL / 2)


def clusters(streams: Iterable[Streams]) -> list[list[int]]:
    """The connected components of trainings that share a stream, as indexes."""
    found: dict[int, list[int]] = {}  # last member → members
    last: dict[Hashable, int] = {}  # stream → a member; `later` leads from it to the last one of its cluster
    later: dict[int, int] = {}
    for index, own in enumerate(streams):
        touched: set[int] = set()
        for member in {last[name] for name in own if name in last}:
            while member in later:
                member = later[member]
            touched.add(member)
        found[index] = [*(member for each in sorted(touched) for member in found.pop(each)), index]
        later |= dict.fromkeys(touched, index)
        last |= dict.fromkeys(own, index)
    return [*found.values()]


def resolved(intervals: Sequence[Interval | None]) -> list[bool]:
    """Which of the differences of one table are not zero.

    P-values are adjusted for their number (Holm 1979), so a table without any true difference contains a false verdict
    in at most 5 % of studies.
    """
    values = [interval.p_value if interval else None for interval in intervals]
    tested = sorted((value, index) for index, value in enumerate(values) if value is not None)
    verdicts = [False] * len(values)
    for rank, (value, index) in enumerate(tested):
        if value * (len(tested) - rank) > LEVEL:
            break
        verdicts[index] = True
    return verdicts
