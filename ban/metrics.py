"""Numbers about stored predictions. numpy only, so that tables need no torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LogProbabilities = NDArray[np.float32]
"""[examples, classes]"""


def error_percent(log_probabilities: LogProbabilities, targets: NDArray[np.integer]) -> float:
    """The part of the examples whose most probable class is not the target, in percent."""
    return 100.0 * float(np.mean(log_probabilities.argmax(-1) != targets))


def negative_log_likelihood(log_probabilities: LogProbabilities, targets: NDArray[np.integer]) -> float:
    """Mean −log q_y in nats."""
    return -float(np.take_along_axis(log_probabilities, targets[:, None], -1).mean(dtype=np.float64))


def ensemble(members: Sequence[LogProbabilities]) -> LogProbabilities:
    """The logarithm of the mean probability: BANE (Furlanello et al. 2018)."""
    return np.logaddexp.reduce(np.stack(members), axis=0) - np.log(len(members))
