"""The fields by which tables and lists know a stage; `stage.json` and `result.json` begin with them."""

from typing import Any

from typing_extensions import TypedDict  # pydantic refuses the one of `typing` before Python 3.12

from ban.plan.stage import Stage


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
    """The seed of the generation 0 that the stage descends from."""
    split_seed: int | None
    teachers: list[str]
    """Signatures of the stages that teach."""
    parents: list[str]
    """Signatures of all stages that must be finished first."""
    teacher_families: list[str]
    train_size: int
    epochs: int
    batch_size: int
    precision: str


def identity_of(stage: Stage) -> Identity:
    """The identity of a stage."""
    teachers = [parent.stage for parent in stage.taught_by]
    return {
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
        "epochs": stage.recipe.epochs,
        "batch_size": stage.recipe.batch_size,
        "precision": stage.recipe.precision,
    }


def description_of(stage: Stage) -> dict[str, Any]:
    """The content of `stage.json`: identity and all settings."""
    return {**identity_of(stage), **stage.settings, **stage.parents_as("signature")}
