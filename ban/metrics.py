"""Numbers about stored predictions. numpy only, so that tables need no torch."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Predictions = Mapping[str, NDArray]
"""What a network said about a split, and what was right (`targets`). Of images and rows `log_probabilities` [examples,
classes]; of a text, whose vocabulary is too large for that, [words]: those of the words that came."""

SHOWN = {"error_percent": "error in %", "perplexity": "perplexity"}
"""The metric that a kind of data is reported_networks by → how tables call it."""


def measure(predictions: Predictions) -> dict[str, float]:
    """Of images and rows `error_percent`, of a text `perplexity`; of both `nll`, the mean −log q_y in nats."""
    log_probabilities, targets = predictions["log_probabilities"], predictions["targets"]
    if log_probabilities.ndim == 1:
        nll = -float(log_probabilities.mean(dtype=np.float64))
        return {"perplexity": float(np.exp(nll)), "nll": nll}
    error = 100.0 * float(np.mean(log_probabilities.argmax(-1) != targets))
    return {"error_percent": error, "nll": -float(_of_targets(log_probabilities, targets).mean(dtype=np.float64))}


def _of_targets(log_probabilities: NDArray, targets: NDArray) -> NDArray:
    return np.take_along_axis(log_probabilities, targets[:, None], -1)


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """The mean probability: BANE (Furlanello et al. 2018). Of a text, the target's mean probability is enough.

    Raises:
        ValueError: the members speak of different examples.
    """
    targets = members[0]["targets"]
    if not all(np.array_equal(member["targets"], targets) for member in members):
        raise ValueError("the members were tested on different examples")
    summed = np.logaddexp.reduce(np.stack([member["log_probabilities"] for member in members]), axis=0)
    return {"log_probabilities": summed - np.log(len(members)), "targets": targets}


def describe(split: str, metric: str, value: float) -> str:
    """As people read it: test error 12.92 %."""
    return f"{split} error {value:.2f} %" if metric == "error_percent" else f"{split} {metric} {value:.2f}"
