"""What stored predictions say beyond the error: calibration, and how far networks agree. No torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ban.metrics import Predictions

BINS = 15
"""Of a reliability diagram, with equally many examples each."""


class Reliability(NamedTuple):
    """The mean confidence and the accuracy of each bin, `[bins]`, both in [0, 1]."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error in points (Naeini et al. 2015), from bins of equal mass (Nguyen 2015)."""
        gaps = np.abs(self.confidence - self.accuracy)
        return 100 * float(gaps @ self.counts / self.counts.sum())


def reliability(predictions: Predictions, bins: int = BINS) -> Reliability:
    """How often the most likely class is right, where its probability is so large."""
    log_probabilities = predictions["log_probabilities"]
    confidence = np.exp(log_probabilities.max(-1).astype(np.float64))
    right = log_probabilities.argmax(-1) == predictions["targets"]
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return Reliability(
        np.array([confidence[part].mean() for part in parts]),
        np.array([right[part].mean() for part in parts]),
        np.array([len(part) for part in parts]),
    )


class Agreement(NamedTuple):
    """How far two networks agree on the test examples."""

    same_class_percent: float
    divergence: float
    """Mean Kullback–Leibler divergence of the second's probabilities from the first's, in nats."""


def agreement(first: Predictions, second: Predictions) -> Agreement:
    """Of two classifiers on the same examples."""
    ours, theirs = (each["log_probabilities"].astype(np.float64) for each in (first, second))
    same = 100 * float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    return Agreement(same, float((np.exp(ours) * (ours - theirs)).sum(-1).mean()))
