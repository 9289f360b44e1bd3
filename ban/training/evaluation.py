"""Predictions of a network for a split, and their metrics."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ban import metrics
from ban.errors import UserError
from ban.interfaces import Data, Output


@torch.no_grad()
def predict(network: nn.Module, data: Data, split: str, check: Callable[[], None]) -> metrics.Predictions:
    """The network's predictions for a whole split, in evaluation mode, in fp32 and with carried state.

    `check` is called before each batch, and may raise an exception to stop.
    """
    network.eval()
    state, predictions, targets = None, [], []
    for batch in data.evaluation(split):
        check()
        output: Output = network(batch.views[0], state)
        state, log_probabilities = output.state, output.logits.float().log_softmax(-1)
        predictions.append(data.recorded(log_probabilities, batch.targets))
        targets.append(batch.targets.flatten())
    return {"log_probabilities": torch.cat(predictions).cpu().numpy(), "targets": torch.cat(targets).cpu().numpy()}


def measure(predictions_by_split: Mapping[str, metrics.Predictions]) -> dict[str, float]:
    """The metrics of each split: `test_error_percent`, `test_nll` and so on.

    Raises:
        UserError: an output of the network is not a finite number.
    """
    measured = {}
    for split, predictions in predictions_by_split.items():
        if not np.isfinite(predictions["log_probabilities"]).all():
            raise UserError(
                "the network's outputs are not finite: lower recipe.optimizer.lr, or choose another file of "
                "teacher.weights."
            )
        measured |= {f"{split}_{name}": value for name, value in metrics.measure(predictions).items()}
    return measured


def mean(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over several networks."""
    return {name: sum(each[name] for each in measured) / len(measured) for name in measured[0]}
