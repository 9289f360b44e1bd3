"""What names a stage, for tables, lists and its `result.json`."""

from typing_extensions import TypedDict  # pydantic refuses the one of `typing` before Python 3.12


class Identity(TypedDict):
    """The fields of `Stage.identity()`."""

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
