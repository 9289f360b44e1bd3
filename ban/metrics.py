"""Metrics of stored predictions. Uses numpy only, so that tables can be made without torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predictions = Mapping[str, NDArray[Any]]
"""A network's predictions for a split: `log_probabilities` and the true classes, `targets` `[examples]`.

`log_probabilities` are `[examples, classes]` for images and rows. For text, whose vocabulary is too large to store them
all, they are those of the target words, `[words]`.
"""

LARGEST_TEMPERATURE = 20.0
"""That is fitted; its inverse is the smallest one."""
LABELS = {"error_percent": "error in %", "perplexity": "perplexity"}
"""Metric → its name in the titles of tables."""


def measure(predictions: Predictions) -> dict[str, float]:
    """`error_percent` for images and rows or `perplexity` for text, and `nll`, the mean of −log q_y in nats."""
    log_probabilities, targets = predictions["log_probabilities"], predictions["targets"]
    if log_probabilities.ndim == 1:
        nll = -float(log_probabilities.mean(dtype=np.float64))
        with np.errstate(over="ignore"):  # infinite, where a training has diverged
            return {"perplexity": float(np.exp(nll)), "nll": nll}
    error = 100.0 * float(np.not_equal(log_probabilities.argmax(-1), targets).mean())
    of_targets = np.take_along_axis(log_probabilities, targets[:, None], -1)
    return {"error_percent": error, "nll": -float(of_targets.mean(dtype=np.float64))}


def fitted_temperature(predictions: Predictions) -> float | None:
    """The temperature T at which softmax(logits / T) has the lowest mean of −log q_y (Guo et al., ICML 2017).

    None for text, where only the target words' probabilities are known. Within [1/20, 20]: on examples that are all
    classified right, the likelihood rises for ever as T falls.
    """
    from scipy.optimize import minimize_scalar  # pyright: ignore[reportMissingTypeStubs]

    if predictions["log_probabilities"].ndim == 1:
        return None
    bound = float(np.log(LARGEST_TEMPERATURE))

    def nll(logarithm: float) -> float:
        return measure(at_temperature(predictions, float(np.exp(logarithm))))["nll"]

    found: Any = minimize_scalar(nll, bounds=(-bound, bound), method="bounded")
    return float(np.exp(found.x))


def at_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions of softmax(logits / T), from those at T = 1."""
    scaled = predictions["log_probabilities"].astype(np.float64) / temperature
    total = np.logaddexp.reduce(scaled, axis=-1, keepdims=True)
    return {"log_probabilities": scaled - total, "targets": predictions["targets"]}


def is_worse_than_a_guess(metric: str, value: float, classes: int) -> bool:
    """Whether a uniform guess among the classes is better; an error has to be nearer to 100 % than to that of a guess.

    After a few steps, before batch normalisation has settled, errors are often a little above that of a guess.
    """
    return value > (100 - 50 / classes if metric == "error_percent" else classes)


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """The predictions of an ensemble, which averages probabilities: BANE (Furlanello et al. 2018).

    The target words' probabilities are enough for text, because an average is taken class by class.

    Raises:
        ValueError: the members' predictions are not for the same examples.
    """
    targets = members[0]["targets"]
    if not all(np.array_equal(member["targets"], targets) for member in members):
        raise ValueError("the members were tested on different examples")
    summed = np.logaddexp.reduce(np.stack([member["log_probabilities"] for member in members]), axis=0)
    return {"log_probabilities": summed - np.log(len(members)), "targets": targets}


def describe(split: str, metric: str, value: float) -> str:
    """A metric as text, for example "test error 12.92 %"."""
    return f"{split} error {value:.2f} %" if metric == "error_percent" else f"{split} {metric} {value:.2f}"
