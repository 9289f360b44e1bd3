"""The fields by which tables and lists know a stage; `stage.json` and `result.json` begin with them."""

from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic refuses the one of `typing` before Python 3.12

from ban.plan.stage import Stage


class WeightsIdentity(TypedDict):
    """Where the weights of a network that was not trained come from."""

    file: str
    """The name of the user's file."""
    sha256: str
    """Of the tensors in it."""


class Identity(TypedDict):
    """What a stage is."""

    signature: str
    family: str
    """The signature without seeds: all repetitions share it."""
    regime: str
    """A hash of data set and recipe. Results are compared only within one regime."""
    regime_title: str
    label: str
    """The stage's name for people."""
    generation: int
    replica: int
    method: str
    method_title: str
    model: str
    model_title: str
    network: str
    """A hash of the network's settings."""
    cohort: int
    """Networks that are trained together."""
    unlabelled: bool
    """Whether unlabelled examples are in the batches."""
    prepares: bool
    """Whether it is only the pre-training of another stage."""
    dataset: str
    recipe: str
    metric: str
    """`error_percent` or `perplexity`."""
    seed: int
    root_seed: int
    """The seed of the first training that the stage descends from."""
    split_seed: int | None
    teachers: list[str]
    """Signatures of the stages that teach."""
    parents: list[str]
    """Signatures of all stages that must be finished first."""
    teacher_families: list[str]
    train_size: int
    epochs: int
    """0: its weights come from a file."""
    batch_size: int
    precision: str
    weights: NotRequired[WeightsIdentity]
    """Only of a stage whose weights come from a file. Its method and recipe are empty, its seed and batch size 0."""


def identity_of(stage: Stage) -> Identity:
    """The identity of a stage."""
    teachers = [parent.stage for parent in stage.taught_by]
    identity: Identity = {
        "label": stage.label,
        "generation": stage.generation,
        "method": stage.method.name,
        "method_title": stage.method.title,
        "model": stage.model.name,
        "model_title": stage.model.title,
        "network": stage.network,
        "cohort": len(stage.models),
        "unlabelled": bool(getattr(stage.dataset, "unlabelled", False)),
        "prepares": stage.is_pretraining,
        "dataset": stage.dataset.name,
        "recipe": stage.recipe.name,
        "seed": stage.seed,
        "root_seed": stage.root_seed,
        "split_seed": getattr(stage.dataset, "split_seed", None),
        "metric": stage.dataset.metric,
        "replica": stage.replica,
        "signature": stage.signature,
        "family": stage.family,
        "regime": stage.regime,
        "regime_title": stage.regime_title,
        "teachers": [teacher.signature for teacher in teachers],
        "parents": [parent.signature for parent in stage.parents],
        "teacher_families": [teacher.family for teacher in teachers],
        "train_size": stage.dataset.train_size,
        "epochs": stage.epochs,
        "batch_size": stage.recipe.batch_size,
        "precision": stage.recipe.precision,
    }
    if stage.weights:
        identity.update(method="", method_title="", recipe="", batch_size=0, precision="fp32")
        identity["weights"] = {"file": stage.weights.path.name, "sha256": stage.weights.sha256}
    return identity


def description_of(stage: Stage) -> dict[str, Any]:
    """The content of `stage.json`: identity and all settings."""
    return {**identity_of(stage), **stage.settings, **stage.parents_as("signature")}
