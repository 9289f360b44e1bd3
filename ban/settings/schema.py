"""Every setting, as a type. Values are in `conf/`; nothing else says which settings there are.

A setting of a stage is `Signed` if it can change the trained weights, else `Unsigned`. A signed setting that has its
default value is left out of signatures, so a new setting with a default keeps the results that are stored.

Open parts hold the arguments of a constructor that `_target_` names (a network's, a term's, an optimizer's): they stay
plain data, because that constructor is their schema.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, cast

from annotated_types import Gt, MinLen
from pydantic import AfterValidator, BeforeValidator, Strict
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from ban.ranges import (
    Flag,
    Integer,
    NonNegative,
    Number,
    Positive,
    PositiveNumber,
    Seconds,
    Text,
    UpTo1000,
    ZeroTo1000,
)
from ban.settings.datasets import AnyDataset
from ban.settings.types import (
    Component,
    Files,
    Folder,
    Node,
    Part,
    Signed,
    Unsigned,
)


def _with_learning_rate(node: Node) -> Node:
    rate = node.get("lr")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        advice = "has the learning rate lr={rate}; it must be a number above 0"
        raise PydanticCustomError("no_rate", advice, {"rate": json.dumps(rate, default=str)})
    return node


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise PydanticCustomError("device", "must be auto, cpu, cuda or cuda:N")
    return name


def _switch(value: Any) -> Any:
    if value is not None and not isinstance(value, bool) and value != "auto":
        raise PydanticCustomError("switch", "must be true, false or auto")
    return value


Optimizer = Annotated[Component, AfterValidator(_with_learning_rate)]
Switch = Annotated[bool | Literal["auto"], BeforeValidator(_switch)]


# Networks


@dataclass(frozen=True, kw_only=True)
class Network(Part):
    """A network, and the arguments of its class."""

    others: ClassVar[str | None] = "constructor"

    name: Unsigned[Text]
    title: Unsigned[Text]
    kind: Unsigned[Text] = "images"
    """The kind of data that it reads."""
    as_published: Unsigned[Flag] = False
    """Whether it is the network that Furlanello et al. 2018 name, of the size that they print."""
    checkpointing: Unsigned[Switch | None] = None
    """Recompute activations in the backward pass to save memory: the same weights up to rounding. auto: if a training
    step does not fit into the free memory."""
    constructor: Component


# Recipes and methods


@dataclass(frozen=True, kw_only=True)
class Recipe(Part):
    """How one network is trained."""

    name: Unsigned[Text]
    as_published: Unsigned[Flag] = False
    """Whether it is the recipe of Furlanello et al. 2018, as far as they describe it."""
    epochs: Signed[Positive]
    batch_size: Signed[Positive]
    """Examples of a step; of a text, rows."""
    steps_per_epoch: Signed[Positive | None] = None
    """Stop epochs early; None: all full batches."""
    unroll: Signed[Positive | None] = None
    """Words of a row that a step sees; None: the recipe is not for texts."""
    loss_scale: Signed[PositiveNumber | None] = None
    """Multiplies the mean loss; None: 1."""
    clip_norm: Signed[PositiveNumber | None] = None
    """The largest norm of the scaled loss's gradient."""
    select: Signed[Literal["best_validation"] | None] = None
    """Which epoch's network is tested and teaches; None: the last."""
    optimizer: Signed[Optimizer]
    schedule: Signed[Component]
    """Factor of the optimizer's learning rate over time."""
    beta1: Signed[Component | None] = None
    """Adam's first decay rate over time."""
    precision: Signed[Literal["fp32", "bf16"]]
    evaluate_every: Unsigned[NonNegative]
    """Epochs between evaluations; 0: only after the last."""
    diagnosed_steps: Unsigned[NonNegative] = 0
    """Steps of an epoch whose gradient is decomposed."""

    @property
    def learning_rate(self) -> float:
        """The peak."""
        return self.optimizer["lr"]

    @property
    def uses_adam(self) -> bool:
        """Whether the optimizer keeps two moments and has a β₁."""
        return self.optimizer["_target_"].rpartition(".")[2] in ("Adam", "AdamW")

    @property
    def examples_per_step(self) -> int:
        """Images, rows or words."""
        return self.batch_size * (self.unroll or 1)


@dataclass(frozen=True, kw_only=True)
class Term(Part):
    """One weighted term of a loss, and the arguments of its class."""

    others: ClassVar[str | None] = "constructor"

    weight: Signed[Number | Component]
    """A constant or a schedule. A constant below 0 moves the student away from what this term asks for."""
    constructor: Component


Terms = Annotated[Mapping[Text, Term], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class Pretraining(Part):
    """The first of a method's two trainings, whose network the second starts from."""

    name: Unsigned[Text]
    title: Unsigned[Text]
    until: Signed[Text]
    """The feature at which the forward pass ends."""
    epochs: Signed[PositiveNumber] = 1.0
    """Factor of the recipe's epochs."""
    rate: Signed[PositiveNumber] = 1.0
    """Factor of the recipe's learning rate."""
    teacher: Signed[Component | None] = None
    terms: Signed[Terms]
    reported_network: ClassVar[None] = None


@dataclass(frozen=True, kw_only=True)
class Method(Part):
    """Who teaches, and what is matched."""

    name: Unsigned[Text]
    title: Unsigned[Text]
    group: Unsigned[Text | None] = None
    """The heading under which `ban methods` lists it."""
    reference: Unsigned[Text | None] = None
    """Who published it: authors, year, title, place."""
    teacher_count: Unsigned[ZeroTo1000] = 0
    """Trained networks that teach; none: the method is a generation 0."""
    teacher: Signed[Component | None] = None
    """What makes the student's targets; None: nothing but the labels."""
    cohort: Unsigned[UpTo1000] = 1
    """Networks that are trained together."""
    pretrain: Unsigned[Pretraining | None] = None
    frozen_from_teacher: Unsigned[Sequence[Text]] = ()
    """Modules that the student takes from its teacher and does not train."""
    data: Unsigned[Node] = field(default_factory=dict[str, Any])
    """Changes to the data set."""
    reported_network: Unsigned[Text | None] = None
    """The network that is reported and teaches; None: the trained one, of a cohort their mean."""
    terms: Signed[Terms]
    until: ClassVar[None] = None


# Tables


def _split(cells: Any) -> Any:
    """A mapping as a list of one; one with a list of generations or replicas as a list of mappings."""
    nodes: list[Any] = [cells]
    if isinstance(cells, Sequence) and not isinstance(cells, str):
        nodes = [*cast("Sequence[Any]", cells)]
    for key in ("generation", "replica"):
        nodes = [each for node in nodes for each in _split_by(key, node)]
    return nodes


def _split_by(key: str, node: Any) -> list[Any]:
    values = cast("Node", node).get(key) if isinstance(node, Mapping) else None
    return [{**node, key: value} for value in cast("list[Any]", values)] if isinstance(values, list) else [node]


@dataclass(frozen=True, kw_only=True)
class Cell(Part):
    """A trained network in a row of a table, in all seeds that are stored."""

    method: Text
    generation: NonNegative = 0
    replica: NonNegative = 0
    model: Text | None = None
    """None: the model of the row."""
    teacher: Text | None = None
    """The model of the generation 0 that it descends from; None: the model of the row."""


Cells = Annotated[Sequence[Cell], BeforeValidator(_split), MinLen(1)]
"""One network, or several whose probabilities are averaged.

In YAML a mapping, or a list of mappings; `{method: ban, generation: [1, 2]}` stands for two networks.
"""


@dataclass(frozen=True, kw_only=True)
class Comparison(Part):
    """A paired difference that is shown below a table."""

    cell: Cells
    control: Cells


@dataclass(frozen=True, kw_only=True)
class TableLayout(Part):
    """What a table shows; without it, all that the experiment trains."""

    number: Positive | None = None
    """The table of Furlanello et al. 2018 whose numbers are shown too."""
    rows: Sequence[Text] = ()
    """The models that have a row in the paper's table, in order; none: all."""
    cells: Mapping[Text, Cells] = field(default_factory=dict[str, Sequence[Cell]])
    """Heading → networks; none: every stage, and the ensembles of its generations."""
    exceptions: Mapping[Text, Mapping[Text, Cells]] = field(default_factory=dict[str, Mapping[str, Sequence[Cell]]])
    """Model → headings with other networks."""
    splits: Mapping[Literal["validation", "test"], str] = field(default_factory=lambda: {"test": ""})
    """The splits that are columns of the paper's table → what is added to their headings."""
    compare: Sequence[Comparison] = ()


# The whole


@dataclass(frozen=True, kw_only=True)
class Generation0(Part):
    """How the first teacher is trained, or where its weights are."""

    seed: Integer
    model: Network
    models: Mapping[Text, Network] = field(default_factory=dict[str, Network])
    """Networks of several teachers, in turn; none: `model`."""
    weights: Files | None = None
    """Files with the weights of trained networks, one for each teacher; None: the teachers are trained."""
    weights_sha256: Sequence[Text] = ()
    """Of the tensors in each file."""
    method: Method
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Machine(Part):
    """Where and how to run."""

    device: Annotated[Text, AfterValidator(_device)]
    threads: UpTo1000 | None = None
    """CPU threads of a training; None: one for each CPU that the process may use."""
    outputs: Folder
    data_dir: Folder
    download: Flag
    stream_images: Flag | None = None
    """Whether own images are read batch by batch; None: if they do not fit into half of the free memory."""
    checkpoint_seconds: Seconds
    """Between checkpoints."""
    log_seconds: Seconds
    """Between a stage's lines in a log."""
    compile: Switch
    """Whether to use `torch.compile`; auto: where it is expected to pay."""
    compile_mode: Literal["default", "max-autotune-no-cudagraphs", "reduce-overhead"] = "default"
    """Of `torch.compile`."""
    trackers: Sequence[Literal["tensorboard", "mlflow", "wandb"]]
    """Where a stage's settings, epochs and results are sent, beside the store."""
    track_weights: Flag
    """Whether trackers get the weights too."""


@dataclass(frozen=True, kw_only=True)
class Settings(Part):
    """All settings of a job."""

    seed: Integer
    generations: ZeroTo1000
    replica: NonNegative
    dry_run: Flag
    yes: Flag
    table: TableLayout | None = None
    dataset: AnyDataset
    model: Network
    method: Method
    recipe: Recipe
    peers: Mapping[Text, Network]
    teacher: Generation0
    machine: Machine


# Hydra's launchers and sweeper


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[Text, BeforeValidator(_as_text)]
"""A name that may consist of digits."""
Devices = NonNegative | Text | Annotated[Sequence[NonNegative | Text], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class SweeperSettings(Part):
    """`hydra/sweeper=union`; `ban.settings.sweeps.UnionSweeper` explains each."""

    sweeps: Mapping[Text, Mapping[Text, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    by_scale: Mapping[Text, Mapping[Text, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


@dataclass(frozen=True, kw_only=True)
class LocalLauncherSettings(Part):
    """`hydra/launcher=local`; conf/hydra/launcher/local.yaml explains each."""

    devices: Devices
    stages_per_device: UpTo1000 | None = None
    bundle: Literal["auto", False] | UpTo1000 = False
    stall_timeout: Annotated[Seconds, Gt(0)] | None = None


@dataclass(frozen=True, kw_only=True)
class SlurmLauncherSettings(Part):
    """`hydra/launcher=slurm`; conf/hydra/launcher/slurm.yaml explains each."""

    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    constraint: Name | None = None
    gres: Name | None = None
    cpus: Positive
    memory_gb: PositiveNumber | None = None
    minutes: Positive
    checkpoint_minutes: PositiveNumber
    parallel: Positive
    directives: Mapping[Text, Text | Integer | Number | Flag | None]
    setup: Sequence[Annotated[str, Strict()]]
    detach: Flag
    on_interrupt: Literal["cancel", "leave"]
