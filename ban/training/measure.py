"""The result of a finished training: metrics of its networks, and the predictions to store."""

import functools
import math
import subprocess
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import ban
from ban import metrics
from ban.errors import UserError
from ban.interfaces import Data
from ban.models.libraries import Classifier
from ban.plan.identity import identity_of
from ban.plan.stage import Stage
from ban.store.result import Result
from ban.training import build, evaluation
from ban.training.device import Device
from ban.training.loop import Training, TrainingState
from ban.training.progress import examples_per_second

Predict = Callable[[nn.Module, Iterable[str]], dict[str, metrics.Predictions]]
"""Returns a network's predictions for the named splits."""


def result(stage: Stage, training: Training, device: Device, measured: Mapping[str, Any]) -> Result:
    """The content of `result.json`. `measured` holds the metrics."""
    state, data = training.state, training.data
    networks = [learner.network for learner in training.step.learners]
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    fields = {
        **identity_of(stage),
        "parameters": sum(counts),
        "network_parameters": counts,
        "seconds": round(state.seconds, 3),
        **({"term_values": values} if (values := _values(build.stored_terms(stage, training.step))) else {}),
        **({f"{data.examples}_per_second": round(examples_per_second(state, data), 1)} if stage.epochs else {}),
        "peak_memory_mib": device.peak_memory_mib(),
        **measured,
        **{f"{split}_unknown_percent": value for split, value in getattr(data, "unknown_percent", {}).items()},
        **({"preprocessing": fitted} if (fitted := getattr(data, "preprocessing", None)) else {}),
        "device": device.name,
        "device_name": device.hardware,
        "threads": device.threads,
        "versions": {"ban": ban.__version__, "torch": torch.__version__, **_libraries(networks), "commit": _commit()},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return cast("Result", fields)  # the names of metrics are made of strings


def _values(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def measure(
    stage: Stage, networks: Mapping[str, nn.Module], data: Data, state: TrainingState, predict: Predict
) -> tuple[dict[str, Any], metrics.Predictions]:
    """Metrics of all networks, the reported ones on all splits; adds those after the last epoch to its record.

    Weights from a file are not measured on the training set, which they need not come from.

    Returns:
        The metrics, and the first reported network's predictions for the test set.

    Raises:
        UserError: the networks have learned nothing.
    """
    reported, measured, tested = stage.reported_networks, dict[str, dict[str, float]](), list[metrics.Predictions]()
    temperature: float | None = None
    for name, network in networks.items():
        predictions = predict(network, [*data.held_out, *(["train"] if name in reported and stage.epochs else [])])
        measured[name] = evaluation.measure(predictions)
        if name in reported:
            tested.append(predictions["test"])
        if name == reported[0] and "validation" in predictions:
            temperature = metrics.fitted_temperature(predictions["validation"])
    mean = evaluation.mean([measured[name] for name in reported])
    for name in reported:
        check_learned(stage, measured[name][f"test_{stage.dataset.metric}"])
    if len(tested) > 1:
        measured["ensemble"] = evaluation.measure({"test": metrics.ensemble(tested)})
    last = [measured[last_epoch(name)] for name in reported if last_epoch(name) in measured]
    after_last = evaluation.mean(last) if last else mean
    for record in state.curves[-1:]:
        record |= {name: value for name, value in after_last.items() if not name.startswith("train")}
    selected = {"selected_epoch": state.best.epoch} if state.best else {}
    fitted = {} if temperature is None else {"fitted_temperature": temperature}
    finite = {
        name: {key: value for key, value in each.items() if math.isfinite(value)} for name, each in measured.items()
    }
    return mean | selected | fitted | _best(state.curves, stage.dataset.metric) | {"networks": finite}, tested[0]


def check_learned(stage: Stage, value: float) -> None:
    """Refuses a result that is worse than a uniform guess; of weights from a file, only one that is not finite.

    Raises:
        UserError: the training has failed, although its losses are finite, or the weights are not usable.
    """
    classes, metric = stage.dataset.classes, stage.dataset.metric
    if not metrics.is_worse_than_a_guess(metric, value, classes) or (stage.weights and math.isfinite(value)):
        return
    when, advice = " after training", "lower recipe.optimizer.lr, or set recipe.clip_norm"
    if stage.weights:
        when, advice = "", f"choose weights for this data set in place of {stage.weights.path}"
    raise UserError(
        f"the test {metric.removesuffix('_percent')}{when} is {value:.6g}, worse than that of a uniform guess among "
        f"{classes} classes: {advice}."
    )


def check_stored(stored: float, trained: float, name: str) -> None:
    """Checks that the stored weights give the metric `name` that the network in training gave.

    Raises:
        UserError: they differ by more than the order of sums on a GPU can explain.
    """
    tolerance = 0.5 if name.endswith("error_percent") else 0.01 * trained
    if abs(stored - trained) > tolerance:
        raise UserError(
            f"the {name} of the stored weights is {stored:.2f}, but that of the network in training was {trained:.2f}: "
            "the network computes with values that are not in its state_dict, or that outlive a change of its weights; "
            "make them parameters or persistent buffers, or compute them in each forward pass."
        )


def last_epoch(name: str) -> str:
    """The name of a network after the last epoch, where that of a better epoch was selected."""
    return "last" if name == "0" else f"{name}.last"


def _best(curves: list[dict[str, float]], metric: str) -> dict[str, Any]:
    """The epochs with the lowest test and the lowest validation metric. Tables never report them as the result."""
    best: dict[str, Any] = {}
    for split in ("test", "validation"):
        name = f"{split}_{metric}"
        measured = [record for record in curves if name in record]
        if len(measured) > 1:
            chosen = min(measured, key=lambda record: record[name])
            kept = {key: value for key, value in chosen.items() if key.endswith(metric)}
            best[f"best_on_{split}"] = {"epoch": chosen["epoch"], **kept}
    return best


def _libraries(networks: Iterable[nn.Module]) -> dict[str, str]:
    """The versions of the packages that define the networks."""
    return {each.library: version(each.library) for each in networks if isinstance(each, Classifier)}


@functools.cache
def _commit() -> str | None:
    """The git commit of this checkout, and whether it has local changes; None: this is no checkout."""
    root = Path(__file__).parents[2]
    if not (root / "conf").exists():  # installed: the folder above may belong to any repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
