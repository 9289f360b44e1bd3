"""Every setting, as a type. Values are in `conf/`; nothing else says which settings there are.

A setting of a stage is `Signed` if it can change the trained weights, else `Unsigned`. A signed setting that has its
default value is left out of signatures, so a new setting with a default keeps the results that are stored.

Open parts hold the arguments of a constructor that `_target_` names (a network's, a term's, an optimizer's): they stay
plain data, because that constructor is their schema.
"""

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast, get_type_hints

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

Node = Mapping[str, Any]
"""Plain data under string keys, as in a YAML file."""


class Marker(Enum):
    """Whether a setting is part of signatures."""

    SIGNED = True
    UNSIGNED = False


Value = TypeVar("Value")
Signed = Annotated[Value, Marker.SIGNED]
Unsigned = Annotated[Value, Marker.UNSIGNED]

Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
NonNegative = Annotated[Integer, Ge(0)]
Positive = Annotated[Integer, Ge(1)]
PositiveNumber = Annotated[Number, Gt(0)]
Fraction = Annotated[Number, Ge(0), Lt(1)]
Folder = Annotated[Path, BeforeValidator(lambda value: Path(value).expanduser() if isinstance(value, str) else value)]


def _with_target(node: Node) -> Node:
    if not isinstance(node.get("_target_"), str):
        raise PydanticCustomError("no_target", "has no _target_: it needs a line `_target_: …`")
    return node


def _with_learning_rate(node: Node) -> Node:
    rate = node.get("lr")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise PydanticCustomError("no_rate", "has the learning rate lr={rate}; it must be above 0", {"rate": rate})
    return node


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise PydanticCustomError("device", "must be auto, cpu, cuda or cuda:N")
    return name


Component = Annotated[Node, AfterValidator(_with_target)]
"""A class or function and its arguments."""
Optimizer = Annotated[Component, AfterValidator(_with_learning_rate)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", validate_by_name=True))
class Part:
    """A closed part of the settings: an unknown key is refused."""

    others: ClassVar[str | None] = None
    """The field that takes the keys of other names; None: there are none."""

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):  # an object that was checked before, or a value that pydantic refuses
            return given
        node = cast("Node", given)
        values = {key: value for key, value in node.items() if value is not None}  # absent is null
        unknown = {key: values.pop(key) for key in [*values] if key not in keys_of(cls)}
        if unknown and cls.others:
            cls._check_others(node, unknown)
            return values | {cls.others: unknown}
        if unknown:
            raise unknown_key(next(iter(unknown)), keys_of(cls))
        return values

    @classmethod
    def _check_others(cls, node: Node, unknown: Node) -> None:
        """Refuses keys that the constructor would refuse. Any are accepted where only the constructor knows."""

    def node(self) -> dict[str, Any]:
        """As plain data under the keys of YAML files, without what has its default value."""
        values: dict[str, Any] = {}
        for key, name in keys_of(type(self)).items():
            value = getattr(self, name)
            if value != default_of(type(self), name):
                values[key] = plain(value)
        return {**(getattr(self, self.others) if self.others else {}), **values}


def plain(value: Any) -> Any:
    """Parts as plain data, in mappings and sequences too."""
    if isinstance(value, Part):
        return value.node()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Node", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    return value


@cache
def keys_of(part: type[Part]) -> dict[str, str]:
    """Key in YAML files → field."""
    return {("_target_" if f.name == "target" else f.name): f.name for f in fields(part) if f.name != part.others}


@cache
def default_of(part: type[Part], name: str) -> Any:
    """A field's default value; `MISSING` where it has none."""
    found = next(each for each in fields(part) if each.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()


@cache
def unsigned_keys(part: type[Part]) -> frozenset[str]:
    """The keys that signatures leave out.

    Raises:
        TypeError: a field does not say whether it is signed.
    """
    hints, unsigned = get_type_hints(part, include_extras=True), set[str]()
    for key, name in keys_of(part).items():
        markers = [each for each in getattr(hints[name], "__metadata__", ()) if isinstance(each, Marker)]
        if len(markers) != 1:
            raise TypeError(f"{part.__name__}.{name} must be Signed or Unsigned")
        if markers == [Marker.UNSIGNED]:
            unsigned.add(key)
    return frozenset(unsigned)


RENAMED = {
    "teachers": "teacher_count",
    "begin": "pretrain",
    "shares": "frozen_from_teacher",
    "headline": "reported_network",
}
"""Settings of earlier versions → their names now. None of them was signed."""


def unknown_key(key: str, known: Sequence[str] | Mapping[str, str]) -> PydanticCustomError:
    """The refusal of a key, with the nearest valid one."""
    close = [RENAMED[key]] if RENAMED.get(key) in known else difflib.get_close_matches(key, known, n=1)
    advice = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}."
    return PydanticCustomError("unknown_key", "{advice}", {"key": key, "advice": advice})


# Networks


@dataclass(frozen=True, kw_only=True)
class Network(Part):
    """A network, and the arguments of its class."""

    others: ClassVar[str | None] = "constructor"

    name: Unsigned[Text]
    title: Unsigned[Text]
    kind: Unsigned[Text] = "images"
    """The kind of data that it reads."""
    checkpointing: Unsigned[Flag | None] = None
    """Recompute activations in the backward pass to save memory: the same weights up to rounding."""
    constructor: Component


# Data sets


@dataclass(frozen=True, kw_only=True)
class Dataset(Part):
    """A data set. One subclass for each kind of data, which answers all that depends on the kind."""

    others: ClassVar[str | None] = "arguments"
    examples: ClassVar[str]
    """What it consists of: images, rows or words."""
    metric: ClassVar[str]
    """What it is judged by; less is better."""
    title_in_messages: ClassVar[str]
    suitable_models: ClassVar[str]
    suitable_recipes: ClassVar[str]

    name: Unsigned[Text]
    title: Unsigned[Text]
    target: Signed[Annotated[Text, Field(alias="_target_")]]
    source_sha256: Signed[Text | None] = None
    """Of the user's module that `_target_` names."""
    classes: Signed[Annotated[Integer, Ge(2)]]
    train_size: Signed[Positive]
    validation_size: Signed[NonNegative]
    test_size: Signed[Positive]
    checksum: Signed[Text | None] = None
    files: Unsigned[Node | None] = None
    mirrors: Unsigned[Sequence[Text] | None] = None
    path: Unsigned[Text | None] = None
    arguments: Node = field(default_factory=dict[str, Any])
    """More arguments of a user's own data set."""

    @classmethod
    def _check_others(cls, node: Node, unknown: Node) -> None:
        target = str(node.get("_target_"))
        named: list[str] = [] if target.startswith("ban.") else _parameters(target)
        if refused := [key for key in unknown if key not in named]:
            raise unknown_key(refused[0], [*keys_of(cls), *named])

    def with_changes(self, changes: Node) -> Self:
        """The same data set with a method's changes."""
        return TypeAdapter(type(self)).validate_python(merged(self.node(), changes)) if changes else self

    @property
    def constructor_arguments(self) -> dict[str, Any]:
        """What its function is called with."""
        described = ("name", "title", "kind", "munge")
        kept = {key: value for key, value in self.node().items() if key not in described}
        return {"checksum": self.checksum, **kept}

    @property
    def network_arguments(self) -> dict[str, Any]:
        """What a network for this data set is called with."""
        return {"classes": self.classes}

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of one input without the batch; None: a word's number."""
        return None

    @property
    def is_text(self) -> bool:
        """Whether examples come in an order, and batches are `[time, batch]`."""
        return self.input_shape is None

    @property
    def views_per_batch(self) -> int:
        """The number of inputs that a batch holds of each example."""
        return 1

    @property
    def bytes_per_prediction(self) -> int:
        """Of what is stored for one test example: the target, and the log-probability of every class."""
        return 4 * self.classes + 8

    @property
    def unlabelled_examples(self) -> bool:
        """Whether a training may see examples without labels."""
        return False

    @property
    def synthetic_per_example(self) -> int:
        """MUNGE's synthetic examples for each training example."""
        return 0

    @property
    def labels(self) -> int | None:
        """The number of training examples that have labels, where not all have."""
        return None

    @property
    def fills_a_batch_from(self) -> int | None:
        """The number of examples that batches are drawn from; None where a batch is always filled or checked later."""
        return None

    @property
    def description(self) -> str:
        """Kind and number of examples and what was done to them, for people."""
        return self.examples


@dataclass(frozen=True, kw_only=True)
class LabelledDataset(Dataset):
    """Examples with one label each."""

    metric: ClassVar[str] = "error_percent"

    split_seed: Signed[Integer]
    label_noise: Signed[Fraction]
    """The fraction of the training labels that is replaced by another class."""
    labelled: Signed[Positive | None] = None
    """The number of training examples that keep their labels, class-balanced; None: all."""
    unlabelled: Signed[Flag] = False
    """Whether the other examples are used, without their labels."""
    munge: Signed[Node | None] = None
    """The arguments of `ban.data.munge.Munge`."""

    @property
    def unlabelled_examples(self) -> bool:
        """See `Dataset`."""
        return self.unlabelled or self.munge is not None

    @property
    def synthetic_per_example(self) -> int:
        """See `Dataset`."""
        return self.munge["multiplier"] if self.munge else 0

    @property
    def labels(self) -> int | None:
        """See `Dataset`."""
        return self.labelled

    @property
    def fills_a_batch_from(self) -> int | None:
        """See `Dataset`."""
        if self.munge:
            return None
        return self.train_size if self.labelled is None or self.unlabelled else self.labelled

    @property
    def description(self) -> str:
        """See `Dataset`."""
        noise = f", {self.label_noise:.0%} of the labels wrong" if self.label_noise else ""
        labels = f", {self.labelled} labels" if self.labelled else ""
        return f"{self.examples}{noise}{labels}"


@dataclass(frozen=True, kw_only=True)
class ImageDataset(LabelledDataset):
    """Images, `[channels, height, width]`."""

    examples: ClassVar[str] = "images"
    title_in_messages: ClassVar[str] = "images"
    suitable_models: ClassVar[str] = "leave dataset out, and the model brings its own"
    suitable_recipes: ClassVar[str] = "wrn, digits, budget_images"

    kind: Unsigned[Literal["images"]]
    shape: Signed[Sequence[Positive]]
    augmentation: Signed[Component]
    whitening: Signed[Literal["zca"] | None] = None
    views: Signed[Positive] = 1
    """Augmented views of each image in a batch."""
    shared_flip: Signed[Flag] = False
    """Whether all views of an image are flipped alike."""

    @property
    def network_arguments(self) -> dict[str, Any]:
        """See `Dataset`."""
        return {"classes": self.classes, "channels": self.shape[0]}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See `Dataset`."""
        return tuple(self.shape)

    @property
    def views_per_batch(self) -> int:
        """See `Dataset`."""
        return self.views

    @property
    def description(self) -> str:
        """See `Dataset`."""
        return super().description + (", whitened" if self.whitening else "")


@dataclass(frozen=True, kw_only=True)
class TabularDataset(LabelledDataset):
    """Rows of features."""

    examples: ClassVar[str] = "rows"
    title_in_messages: ClassVar[str] = "tabular data"
    suitable_models: ClassVar[str] = "choose model=mlp_256 or another of the MLPs"
    suitable_recipes: ClassVar[str] = "tabular, budget_tabular"

    kind: Unsigned[Literal["tabular"]]
    features: Signed[Positive]

    @property
    def network_arguments(self) -> dict[str, Any]:
        """See `Dataset`."""
        return {"classes": self.classes, "features": self.features}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See `Dataset`."""
        return (self.features,)


@dataclass(frozen=True, kw_only=True)
class TextDataset(Dataset):
    """Words; the classes are the words of the vocabulary."""

    examples: ClassVar[str] = "words"
    metric: ClassVar[str] = "perplexity"
    title_in_messages: ClassVar[str] = "language data"
    suitable_models: ClassVar[str] = "choose model=lstm or another of the LSTMs"
    suitable_recipes: ClassVar[str] = "lstm, cnn_lstm, budget_language"

    kind: Unsigned[Literal["language"]]
    characters: Signed[Positive]
    """Different characters, special ones included."""
    word_length: Signed[Positive]
    """Characters of the longest word, its two ends included."""
    min_count: Signed[Positive]
    """Rarer words of the training text are unknown words."""

    @property
    def bytes_per_prediction(self) -> int:
        """Of a word: its number, and its log-probability alone."""
        return 12

    @property
    def description(self) -> str:
        """See `Dataset`."""
        return f"words, vocabulary {self.classes}"


AnyDataset = Annotated[ImageDataset | TabularDataset | TextDataset, Field(discriminator="kind")]
KINDS: dict[str, type[Dataset]] = {"images": ImageDataset, "tabular": TabularDataset, "language": TextDataset}


def _parameters(target: str) -> list[str]:
    """The named parameters of a user's function or class."""
    from hydra.utils import get_method  # imports the user's module

    try:
        return [*inspect.signature(get_method(target)).parameters]
    except Exception as error:
        cause = error.__cause__ or error
        raise PydanticCustomError(
            "broken_target",
            "names {target}, which cannot be imported: {cause}",
            {"target": target, "cause": str(cause)},
        ) from error


def merged(node: Node, changes: Node) -> dict[str, Any]:
    """`node` with the values of `changes`; mappings are merged key by key."""
    result = dict(node)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], cast("Node", value)) if both else value
    return result


# Recipes and methods


@dataclass(frozen=True, kw_only=True)
class Recipe(Part):
    """How one network is trained."""

    name: Unsigned[Text]
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
    """A constant or a schedule."""
    constructor: Component


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
    terms: Signed[Mapping[str, Term]]
    reported_network: ClassVar[None] = None


@dataclass(frozen=True, kw_only=True)
class Method(Part):
    """Who teaches, and what is matched."""

    name: Unsigned[Text]
    title: Unsigned[Text]
    teacher_count: Unsigned[NonNegative] = 0
    """Trained networks that teach; none: the method is a generation 0."""
    teacher: Signed[Component | None] = None
    """What makes the student's targets; None: nothing but the labels."""
    cohort: Unsigned[Positive] = 1
    """Networks that are trained together."""
    pretrain: Unsigned[Pretraining | None] = None
    frozen_from_teacher: Unsigned[Sequence[Text]] = ()
    """Modules that the student takes from its teacher and does not train."""
    data: Unsigned[Node] = field(default_factory=dict[str, Any])
    """Changes to the data set."""
    reported_network: Unsigned[Text | None] = None
    """The network that is reported and teaches; None: the trained one, of a cohort their mean."""
    terms: Signed[Mapping[str, Term]]
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
    splits: Mapping[Literal["validation", "test"], Text] = field(default_factory=lambda: {"test": ""})
    """The splits that are columns of the paper's table → what is added to their headings."""
    compare: Sequence[Comparison] = ()


# The whole


@dataclass(frozen=True, kw_only=True)
class Generation0(Part):
    """How the first teacher is trained."""

    seed: Integer
    model: Network
    models: Mapping[str, Network] = field(default_factory=dict[str, Network])
    """Networks of several teachers, in turn; none: `model`."""
    method: Method
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Machine(Part):
    """Where and how to run."""

    device: Annotated[Text, AfterValidator(_device)]
    threads: Positive | None = None
    """CPU threads of a training; None: all cores."""
    outputs: Folder
    data_dir: Folder
    download: Flag
    checkpoint_seconds: Annotated[Number, Ge(0)]
    """Between checkpoints."""
    log_seconds: Annotated[Number, Ge(0)]
    """Between a stage's lines in a log."""
    compile: Flag
    tensorboard: Flag


@dataclass(frozen=True, kw_only=True)
class Settings(Part):
    """All settings of a job."""

    seed: Integer
    generations: NonNegative
    replica: NonNegative
    dry_run: Flag
    yes: Flag
    table: TableLayout | None = None
    dataset: AnyDataset
    model: Network
    method: Method
    recipe: Recipe
    peers: Mapping[str, Network]
    teacher: Generation0
    machine: Machine


# Launchers


Devices = Integer | Text | Sequence[Integer | Text]


@dataclass(frozen=True, kw_only=True)
class LocalLauncherSettings(Part):
    """`hydra/launcher=local`; conf/hydra/launcher/local.yaml explains each."""

    devices: Devices
    stages_per_device: Positive | None = None
    stall_timeout: PositiveNumber | None = None


@dataclass(frozen=True, kw_only=True)
class SlurmLauncherSettings(Part):
    """`hydra/launcher=slurm`; conf/hydra/launcher/slurm.yaml explains each."""

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    gres: Text | None = None
    cpus: Positive
    memory_gb: PositiveNumber | None = None
    minutes: Positive
    checkpoint_minutes: PositiveNumber
    parallel: Positive
    directives: Node
    setup: Sequence[Text]
    detach: Flag
    on_interrupt: Literal["cancel", "leave"]
