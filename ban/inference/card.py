"""The description of an exported network: a model card (Mitchell et al. 2019)."""

import re
from collections.abc import Sequence

from ban.errors import UserError
from ban.inference.inputs import ImageInputs, RowInputs
from ban.inference.trained import TrainedStage
from ban.plan.lineage import lineage
from ban.report.results import Results
from ban.settings.compose import compose_settings
from ban.store.result import Result, measured, outcome, parameters_of
from ban.wording import duration, plural

FILES = {
    "model.safetensors": "the weights",
    "model.pt2": "normalisation and network as a program: `torch.export.load`",
    "model.onnx": "the same as ONNX",
    "config.json": "classes, preprocessing, and all settings of the training",
    "predict.py": "predictions for your files: `python predict.py FILE …`",
    "README.md": "this description",
}


def card(stage: TrainedStage, results: Results, files: Sequence[str]) -> str:
    """The text of the card, in Markdown."""
    result = stage.result
    return "\n".join(
        [
            f"# {result['model_title']} on {stage.description['dataset']['title']} ({result['label']})",
            "",
            f"{outcome(result)[0].upper()}{outcome(result)[1:]}. {_task(stage)}",
            "",
            "## Use",
            "",
            "```",
            "pip install torch pillow" if isinstance(stage.inputs, ImageInputs) else "pip install torch",
            "python predict.py FILE …",
            "```",
            "",
            *(f"- `{name}`: {FILES[name]}" for name in files),
            "",
            "## Results",
            "",
            *_results(result, results),
            "",
            "## Lineage",
            "",
            *(f"{number}. {_ancestor(each)}" for number, each in enumerate(reversed(results.lineage(result)), 1)),
            "",
            "## Training",
            "",
            f"- Data and recipe: {result['regime_title']}",
            *([] if "weights" in result else _trained(result)),
            f"- Network: {result['model_title']}, {parameters_of(result) or result['parameters']:,} parameters",
            f"- Finished: {result['finished']}",
            "- Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version),
            f"- Stage: {stage.signature}",
            *_command(stage),
            "",
            "## Licence",
            "",
            "The licence of the data applies to what may be done with a network trained on them; it is not known here.",
            "The code of `ban` is under the MIT licence.",
            "",
        ]
    )


def _task(stage: TrainedStage) -> str:
    names = ", ".join([*stage.classes[:12], *(["…"] if len(stage.classes) > 12 else [])])
    if isinstance(stage.inputs, ImageInputs):
        colours = "grey" if stage.inputs.channels == 1 else "colour"
        size = f"{stage.inputs.height}×{stage.inputs.width}"
        return f"It tells {len(stage.classes)} classes of {colours} images of {size} pixels apart: {names}."
    if isinstance(stage.inputs, RowInputs):
        return f"It tells {len(stage.classes)} classes of rows of {len(stage.inputs.low)} features apart: {names}."
    return f"It predicts the next of {len(stage.classes):,} words."


def _results(result: Result, results: Results) -> list[str]:
    metric = result["metric"]
    lines = ["| Split | This network | Mean of its repetitions, ± 95 % interval | Repetitions |", "|--|--:|--:|--:|"]
    for split in ("test", "validation", "train"):
        value, family = measured(result, split, metric), results.measured(result["family"], split, metric)
        if value is not None and family is not None:
            unit = " %" if metric == "error_percent" else ""
            lines.append(f"| {split} {metric.split('_')[0]} | {value:.2f}{unit} | {family.text()} | {family.count} |")
    return [*lines, "", "Intervals are about the randomness of training; the test set is fixed."]


def _trained(result: Result) -> list[str]:
    return [
        f"- Method: {result['method_title']}",
        f"- Time: {duration(result['seconds'])} on {result['device_name']}",
    ]


def _ancestor(result: Result) -> str:
    taught = f"taught by {plural(len(result['teachers']), 'network')}" if result["teachers"] else "taught by labels"
    taught = "not trained here" if "weights" in result else taught
    return f"{result['label']}: {result['model_title']}, {taught}, {outcome(result)} ({result['signature']})"


def _command(stage: TrainedStage) -> list[str]:
    """The command that trains the stage, if the names of its settings are enough to say it."""
    result = stage.result
    words = [f"{name}={result[name]}" for name in ("dataset", "model", "recipe", "method", "seed")]
    if result["teachers"]:
        words.append(f"generations={result['generation']}")
    if path := stage.description["dataset"].get("path"):
        words.append(f"dataset.path={path}")
    try:
        if not all(re.fullmatch(r"[\w.=/~+-]+", word) for word in words):
            return []
        planned = {each.signature for each in lineage(compose_settings(words))}
    except UserError:
        return []
    return [f"- Command: `ban {' '.join(words)}`"] if stage.signature in planned else []
