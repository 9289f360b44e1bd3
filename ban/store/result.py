"""The fields of `result.json`: what is measured of a stage, beside what names it."""

from collections.abc import Mapping
from typing import Any, NotRequired, cast

from typing_extensions import TypedDict  # pydantic refuses the one of `typing` before Python 3.12

from ban import metrics
from ban.plan.identity import Identity


class Versions(TypedDict):
    """The software that trained a stage."""

    ban: str
    torch: str
    torchvision: NotRequired[str]
    """Where it defines the network; likewise timm."""
    timm: NotRequired[str]
    commit: str | None
    """Of a checkout, with `-dirty` if it had local changes."""


class Preprocessing(TypedDict):
    """The numbers by which a network's inputs are normalised: (x − mean) / std, or (x − low) / span."""

    mean: NotRequired[list[float]]
    """Of each channel of images, in units of the stored bytes."""
    std: NotRequired[list[float]]
    low: NotRequired[list[float]]
    """Of each feature of rows: the minimum over the training rows."""
    span: NotRequired[list[float]]


class Result(Identity):
    """A finished stage. Metrics, `networks` and `best_on_…` are absent from a pre-training."""

    parameters: int
    """Of all networks of a cohort together."""
    network_parameters: NotRequired[list[int]]
    """Of each network of a cohort."""
    term_values: NotRequired[int]
    """Numbers in `weights.terms.safetensors`, which a pre-training has whose terms have parameters."""
    seconds: float
    """Training time, without evaluations and checkpoints."""
    images_per_second: NotRequired[float]
    rows_per_second: NotRequired[float]
    words_per_second: NotRequired[float]
    peak_memory_mib: int
    preprocessing: NotRequired[Preprocessing]
    """Absent from texts, whitened images and stages of 0.2.0."""
    device: str
    device_name: str
    threads: int
    versions: Versions
    finished: str
    """ISO 8601, UTC."""

    test_error_percent: NotRequired[float]
    validation_error_percent: NotRequired[float]
    train_error_percent: NotRequired[float]
    test_perplexity: NotRequired[float]
    validation_perplexity: NotRequired[float]
    train_perplexity: NotRequired[float]
    test_nll: NotRequired[float]
    """Mean negative log-likelihood in nats."""
    validation_nll: NotRequired[float]
    train_nll: NotRequired[float]
    test_unknown_percent: NotRequired[float]
    """The share of the text's words that are not in the vocabulary; absent from stages of 0.2.0."""
    validation_unknown_percent: NotRequired[float]
    train_unknown_percent: NotRequired[float]
    fitted_temperature: NotRequired[float]
    """That calibrates the stored predictions best, fitted on the validation set; absent without one, and for text."""
    selected_epoch: NotRequired[int]
    """The epoch with the best validation result, where the recipe selects it."""
    best_on_test: NotRequired[dict[str, float]]
    """The epoch with the best test result, and its metrics. Never reported in its place."""
    best_on_validation: NotRequired[dict[str, float]]
    networks: NotRequired[dict[str, dict[str, float]]]
    """Network → metrics."""


def measured(result: Result, split: str, metric: str) -> float | None:
    """A metric of a split (`test`, `validation`, `train`); None if it was not measured."""
    return cast("Mapping[str, Any]", result).get(f"{split}_{metric}")


def parameters_of(result: Result) -> int | None:
    """The parameters of a stage's network, of a cohort's first one; None for a cohort of version 0.2.0 or earlier."""
    each = result.get("network_parameters") or ([result["parameters"]] if result["cohort"] == 1 else [None])
    return each[0]


def outcome(result: Result) -> str:
    """A finished stage's result in a few words, for example "test error 12.92 %"."""
    value = measured(result, "test", result["metric"])
    if value is None:
        return "pre-training finished"
    text, unknown = metrics.describe("test", result["metric"], value), unknown_percent(result).get("test")
    return text if unknown is None else f"{text} ({unknown:.1f} % of the words unknown)"


def doubt(result: Result, classes: int) -> str:
    """A warning to append to the outcome of weights from a file that are worse than a guess; empty for all others."""
    value = measured(result, "test", result["metric"]) or 0.0
    if "weights" not in result or not metrics.is_worse_than_a_guess(result["metric"], value, classes):
        return ""
    return (
        f". Warning: this is worse than a uniform guess among {classes} classes; are the order of the classes and the "
        "preprocessing those of the data set that these weights were trained on?"
    )


def unknown_percent(result: Result) -> dict[str, float]:
    """Split → the share of a text's words that are not in the vocabulary; empty for other data."""
    found = {split: measured(result, split, "unknown_percent") for split in ("train", "validation", "test")}
    return {split: value for split, value in found.items() if value is not None}


def coverage(unknown: Mapping[str, float]) -> str:
    """These shares as the end of a title; empty for other data."""
    shares = ", ".join(f"{split} {value:.1f} %" for split, value in unknown.items())
    return f"; unknown words: {shares}" if shares else ""
