"""What stored predictions say beyond the error: calibration, and how far networks agree. No torch."""

import itertools
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ban import metrics
from ban.metrics import Predictions
from ban.report.results import Families, Results
from ban.report.statistics import Interval, Streams

BINS = 15
"""Of a reliability diagram, with equally many examples each."""


class Reliability(NamedTuple):
    """The mean confidence and the accuracy of each bin, `[bins]`, both in [0, 1]."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error in points (Naeini et al., AAAI 2015).

        From bins of equal mass (Nguyen and O'Connor, EMNLP 2015).
        """
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


def qualities(families: Families, results: Results, repetitions: int) -> dict[str, Interval]:
    """What is measured of the predictions of a single network, or of an ensemble: heading → mean over repetitions."""
    found: dict[str, list[tuple[float, Streams]]] = {}
    for members in [*results.repetitions(families).values()][:repetitions]:
        predictions = results.averaged(members)
        if predictions is None:
            continue
        streams = frozenset[Hashable]().union(*map(results.streams, members))
        values = {"−log p of the true class, nats": metrics.measure(predictions)["nll"]}
        if predictions["log_probabilities"].ndim > 1:
            confidence = float(np.exp(predictions["log_probabilities"].max(-1)).mean())
            values |= {"mean confidence, %": 100 * confidence, "ECE, points": reliability(predictions).error}
            if len(members) == 1 and (temperature := members[0].get("fitted_temperature")):
                scaled = reliability(metrics.at_temperature(predictions, temperature))
                values |= {"fitted temperature": temperature, "ECE at that temperature, points": scaled.error}
            if len(members) > 1:
                each = [results.predictions(member["signature"]) for member in members]
                values["members disagree, %"] = disagreement([one for one in each if one is not None])
        for name, value in values.items():
            found.setdefault(name, []).append((value, streams))
    return {name: Interval.of(*zip(*pairs, strict=True)) for name, pairs in found.items()}


def disagreement(members: Sequence[Predictions]) -> float:
    """The mean share of the test examples, in %, for which two members of an ensemble name different classes."""
    named = [member["log_probabilities"].argmax(-1) for member in members]
    return 100 * float(np.mean([(one != other).mean() for one, other in itertools.combinations(named, 2)]))
