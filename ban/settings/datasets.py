"""The settings of data sets. There is one type for each kind of data, and it answers all that depends on the kind."""

import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self, cast

from annotated_types import Ge, Len
from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic refuses that of Python 3.11

from ban.ranges import (
    Flag,
    Fraction,
    Integer,
    NonNegative,
    NonNegativeNumber,
    Number,
    Positive,
    PositiveOrInfinite,
    Probability,
    Share,
    Text,
    UpTo1000,
)
from ban.settings.types import (
    Component,
    Node,
    Part,
    Signed,
    Unsigned,
    keys_of,
    merged,
    unknown_key,
)
from ban.wording import as_list, plural


@dataclass(frozen=True, kw_only=True)
class Dataset(Part):
    """A data set. One subclass for each kind of data, which answers all that depends on the kind."""

    others: ClassVar[str | None] = "arguments"
    examples: ClassVar[str]
    """What it consists of: images, rows or words."""
    metric: ClassVar[str]
    """The metric of its results; lower is better."""
    title_in_messages: ClassVar[str]
    suitable_models: ClassVar[str]
    suitable_recipes: ClassVar[str]

    name: Unsigned[Text]
    title: Unsigned[Text]
    as_published: Unsigned[Flag] = False
    """Whether it is the data set of Furlanello et al. 2018, as they use it."""
    function: Signed[Annotated[Text, Field(alias="_target_")]]
    """Which makes it."""
    source_sha256: Signed[Text | None] = None
    """Of the user's code that `_target_` names."""
    content_sha256: Signed[Text | None] = None
    """Of the data that a user's function returns."""
    classes: Signed[Annotated[Positive, Ge(2)]]
    train_size: Signed[Positive]
    validation_size: Signed[NonNegative]
    test_size: Signed[Positive]
    checksum: Signed[Text | None] = None
    files: Unsigned[Mapping[Text, Text] | None] = None
    mirrors: Unsigned[Sequence[Text] | None] = None
    minimum_speed: Unsigned[NonNegativeNumber | None] = None
    """kB/s. A mirror that sends less is left for the next one; 0: never."""
    path: Unsigned[Text | None] = None
    arguments: Node = field(default_factory=dict[str, Any])
    """More arguments of a user's own data set."""

    @classmethod
    def _check_others(cls, node: Node, unknown: Node) -> None:
        target = str(node.get("_target_"))
        named: list[str] | None = [] if target.startswith("ban.") else _parameters(target)
        refused = [key for key in unknown if named is not None and key not in named]
        if refused:
            raise unknown_key(refused[0], dict.fromkeys([*keys_of(cls), *(named or [])]))

    def with_changes(self, changes: Node) -> Self:
        """The same data set with a method's changes."""
        return TypeAdapter(type(self)).validate_python(merged(self.node(), changes)) if changes else self

    @property
    def constructor_arguments(self) -> dict[str, Any]:
        """What its function is called with."""
        described = ("name", "title", "as_published", "kind", "munge", "class_names", "white")
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
        """Whether batches contain examples without labels."""
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
    def training_examples(self) -> int:
        """The training examples that batches are drawn from, synthetic ones included."""
        return self.train_size

    @property
    def description(self) -> str:
        """Kind and number of examples and what was done to them, for people."""
        return self.examples

    @property
    def notes(self) -> Sequence[str]:
        """What was found in the user's files."""
        return ()

    @property
    def warnings(self) -> Sequence[str]:
        """What to know before its results are trusted, a sentence each."""
        return ()


class Munge(TypedDict):
    """The arguments of `ban.data.munge.Munge`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]

    multiplier: UpTo1000
    swap_probability: Probability
    local_variance: PositiveOrInfinite
    components: NotRequired[Positive]


class Distortion(TypedDict):
    """The arguments of `ban.data.augmentation.Distortion`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]

    operations: UpTo1000
    magnitude: Share


@dataclass(frozen=True, kw_only=True)
class LabelledDataset(Dataset):
    """Examples with one label each."""

    metric: ClassVar[str] = "error_percent"

    split_seed: Signed[Integer]
    class_names: Unsigned[Sequence[Text] | None] = None
    """In the order of their numbers; None: the numbers."""
    label_noise: Signed[Fraction]
    """The fraction of the training labels that is replaced by another class."""
    labelled: Signed[Positive | None] = None
    """The number of training examples that keep their labels, class-balanced; None: all."""
    order: Signed[Literal["content"] | None] = None
    """Of the examples before they are split: that of a hash of each, or as they are stored (None)."""
    unlabelled: Signed[Flag] = False
    """Whether the other examples are used, without their labels."""
    munge: Signed[Munge | None] = None
    """Synthetic examples without labels."""
    repeated: Signed[Flag] = False
    """Whether the first half of a batch shows the second half of the batch before again."""

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
    def training_examples(self) -> int:
        """See `Dataset`."""
        real = self.train_size if self.labelled is None or self.unlabelled else self.labelled
        return real * (1 + self.synthetic_per_example)

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
    shape: Signed[Annotated[Sequence[Positive], Len(3, 3)]]
    white: Unsigned[Positive] = 255
    """The largest value of a pixel."""
    augmentation: Signed[Component]
    whitening: Signed[Literal["zca"] | None] = None
    views: Signed[Positive] = 1
    """Augmented views of each image in a batch."""
    shared_flip: Signed[Flag] = False
    """Whether all views of an image are flipped alike."""
    partners: Signed[Flag] = False
    """Whether a batch holds, as its last view, another image of the same class for each of its images."""
    distortion: Signed[Distortion | None] = None
    """What is done to the first view after its augmentation. A batch then holds, as one more view, its images as they
    are: without distortion and augmentation."""

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
        return self.views + self.partners + (self.distortion is not None)

    @property
    def description(self) -> str:
        """See `Dataset`."""
        return super().description + (", whitened" if self.whitening else "")


@dataclass(frozen=True, kw_only=True)
class OwnImages(ImageDataset):
    """Images of the user's in files, in the order of their content. The content counts in signatures, not the files."""

    measured: ClassVar[Node] = {"class_counts": {}, "shape": [3, 4, 4]}

    order: Unsigned[Literal["content"] | None] = None
    """They always are in this order."""
    source: Unsigned[Literal["folder", "arrays", "parquet"]]
    size: Unsigned[Annotated[Positive, Ge(4)] | None] = None
    """Height and width to which images are resized; None: they have one size already."""
    channels: Unsigned[Literal[1, 3]] = 3
    """Of the images of a folder or of Parquet files: colours, or grey values."""
    image: Unsigned[Text | None] = None
    """Column of Parquet files that has the images; None: the only suitable one."""
    label: Unsigned[Text | None] = None
    """Column that has the labels."""
    skip_unreadable: Unsigned[Flag] = False
    """Whether images that cannot be decoded are left out."""
    class_names: Unsigned[Sequence[Text]] = ()
    class_counts: Unsigned[Mapping[Text, Sequence[NonNegative]]]
    """Split → images of each class."""
    duplicates: Unsigned[NonNegative] = 0
    """Test images that are training images too, or images that occur twice where nothing says what is for testing."""
    skipped: Unsigned[Mapping[Text, NonNegative]] = field(default_factory=dict[str, int])
    """Kind of file that was passed over → number."""

    @staticmethod
    def measure(node: Node, data_dir: Path) -> dict[str, Any]:
        """The settings that follow from the files; those that the user set stay."""
        from ban.data.cache import measure

        return measure(node, data_dir)

    @property
    def constructor_arguments(self) -> dict[str, Any]:
        """See `Dataset`."""
        measured = ("class_counts", "duplicates", "skipped", "order")
        return {key: value for key, value in super().constructor_arguments.items() if key not in measured}

    @property
    def description(self) -> str:
        """See `Dataset`."""
        _, height, width = self.shape
        return f"{super().description} of {height}×{width} in {self.classes} classes"

    @property
    def notes(self) -> Sequence[str]:
        """See `Dataset`."""
        of_class = [" + ".join(map(str, counts)) for counts in zip(*self.class_counts.values(), strict=True)]
        equal = len({*of_class}) == 1
        shown = [name if equal else f"{name} ({count})" for name, count in zip(self.class_names, of_class, strict=True)]
        counts = f"{of_class[0]} images each" if equal else "images"
        splits = "" if "all" in self.class_counts else f" for {' + '.join(self.class_counts)}"
        skipped = ", ".join(f"{count} {kind}" for kind, count in self.skipped.items())
        found = [f"Classes, {counts}{splits}: {_listed(shown)}"]
        what = "Files" if self.source == "folder" else "Images"
        return [*found, f"{what} that were passed over: {skipped}"] if skipped else found

    @property
    def warnings(self) -> Sequence[str]:
        """See `Dataset`."""
        if not self.duplicates:
            return ()
        are = "is" if self.duplicates == 1 else "are"
        if "all" in self.class_counts:
            twice = plural(self.duplicates, "image")
            again = f"{twice} {are}, pixel by pixel, there twice, so that some may be tested and trained"
        else:
            again = f"{plural(self.duplicates, 'test image')} {are}, pixel by pixel, among those that are trained"
        return [f"{again} on: remove them, or the test results are too good."]


SHOWN = 12
"""Classes or columns that a plan names."""


def _listed(names: Sequence[str]) -> str:
    """The names in one line; of many, the first ones and the last."""
    return ", ".join([*names[: SHOWN - 1], "…", names[-1]] if len(names) > SHOWN else names)


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


class Column(TypedDict):
    """How a column becomes features: see `ban.data.rows`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]

    name: Text
    kind: Literal["number", "category"]
    mean: NotRequired[Number]
    """Of the training rows, for gaps; absent: there must be none."""
    values: NotRequired[Sequence[Text]]
    """The categories."""
    may_be_missing: NotRequired[Flag]


@dataclass(frozen=True, kw_only=True)
class OwnRows(TabularDataset):
    """Rows of the user's in a file, in the order of their content. The content counts in signatures, not the file."""

    measured: ClassVar[Node] = {"class_counts": [], "features": 1, "columns": [], "target": "class"}

    order: Unsigned[Literal["content"] | None] = None
    """They always are in this order."""
    target: Unsigned[Text]
    """The column of the classes."""
    drop: Unsigned[Sequence[Text]] = ()
    """Columns that are left out."""
    missing: Unsigned[Literal["mean"] | None] = None
    """What a gap becomes: the mean of the training rows, and among texts a category of its own; None: it is refused."""
    class_names: Unsigned[Sequence[Text]] = ()
    class_counts: Unsigned[Sequence[NonNegative]]
    columns: Unsigned[Sequence[Column]]
    """How columns become features, in their order."""
    left_out: Unsigned[Mapping[Text, Text]] = field(default_factory=dict[str, str])
    """Column that is not used → why."""
    gaps: Unsigned[Mapping[Text, Positive]] = field(default_factory=dict[str, int])
    """Column → values that are missing."""
    numbered: Unsigned[Sequence[Text]] = ()
    """Columns that seem to have row numbers."""
    mixed: Unsigned[Mapping[Text, Text]] = field(default_factory=dict[str, str])
    """Column of categories that mostly are numbers → one that is none."""
    duplicates: Unsigned[NonNegative] = 0
    """Test rows whose features are also those of a training row."""

    @staticmethod
    def measure(node: Node, data_dir: Path) -> dict[str, Any]:
        """The settings that follow from the files; those that the user set stay."""
        from ban.data.rows import measure

        return measure(node)

    @property
    def constructor_arguments(self) -> dict[str, Any]:
        """See `Dataset`."""
        measured = ("class_counts", "columns", "left_out", "gaps", "numbered", "mixed", "duplicates")
        kept = super().constructor_arguments.items()
        return {key: value for key, value in kept if key not in (*measured, "order")}

    @property
    def description(self) -> str:
        """See `Dataset`."""
        return f"{super().description} of {plural(self.features, 'feature')} in {self.classes} classes"

    @property
    def notes(self) -> Sequence[str]:
        """See `Dataset`."""
        classes = [f"{name} ({count})" for name, count in zip(self.class_names, self.class_counts, strict=True)]
        texts = [f"{each['name']} ({len(each['values'])})" for each in self.columns if "values" in each]
        found = {
            "Classes, rows": classes,
            "Categories, values": texts,
            "Columns that are left out": [f"{name} ({why})" for name, why in self.left_out.items()],
            "Gaps that are filled, rows": [f"{name} ({count})" for name, count in self.gaps.items()],
        }
        return [f"{what}: {_listed(names)}" for what, names in found.items() if names]

    @property
    def warnings(self) -> Sequence[str]:
        """See `Dataset`."""
        found = [
            f"the column {name} seems to have row numbers: set dataset.drop={as_list([name])} if they mean nothing."
            for name in self.numbered
        ]
        found += [
            f"the column {name} is read as categories, because it has {text!r} among its numbers: correct it, or leave "
            "it empty and set dataset.missing=mean."
            for name, text in self.mixed.items()
        ]
        if self.duplicates:
            are = "is" if self.duplicates == 1 else "are"
            found.append(
                f"{plural(self.duplicates, 'test row')} {are}, number by number, among those that are trained on: "
                "remove copies, or the test results are too good."
            )
        return found


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

    @property
    def warnings(self) -> Sequence[str]:
        """See `Dataset`."""
        if self.function != "ban.data.text.text" or self.checksum is None:
            return ()
        from ban.data import coverage

        sizes = (self.train_size, self.validation_size, self.test_size)
        return coverage.warnings(self.path, self.checksum, self.min_count, sizes)


DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
CLASS_COUNTS: Mapping[str, Mapping[str, Sequence[int]]] = {
    "ban.data.bundled.breast_cancer": {"": (212, 357)},
    "ban.data.bundled.digits": {"": DIGITS},
    "ban.data.bundled.digits_features": {"": DIGITS},
    "ban.data.bundled.wine": {"": (59, 71, 48)},
    "ban.data.cifar.cifar10": {"training ": (5000,) * 10, "test ": (1000,) * 10},
    "ban.data.cifar.cifar100": {"training ": (500,) * 100, "test ": (100,) * 100},
}
"""Function of a data set → what splits are drawn from → examples of each class."""
OWN = {"ban.data.own.images": "own images", "ban.data.own.rows": "own rows"}
"""Function of a data set that reads the user's files → the tag of its type."""
OWN_TYPES: dict[str, type[OwnImages | OwnRows]] = {"own images": OwnImages, "own rows": OwnRows}
MEASURED: Node = {
    **{"title": "own", "classes": 2, "class_names": ["a", "b"]},
    **{"train_size": 1, "validation_size": 0, "test_size": 1},
}
"""Settings that follow from the user's files, with values that any of them could have. Each type adds its own."""


def own_type(node: Node) -> type[OwnImages | OwnRows] | None:
    """The type of a data set that reads the user's files; None: it is another one."""
    return OWN_TYPES.get(OWN.get(str(node.get("_target_")), ""))


def _type_of(value: Any) -> str | None:
    """The tag of a data set's type; None: unknown."""
    if isinstance(value, Dataset):
        return OWN.get(value.function) or next(kind for kind, part in KINDS.items() if isinstance(value, part))
    if not isinstance(value, Mapping):
        return "images"  # whose type refuses it
    node = cast("Node", value)
    return OWN.get(str(node.get("_target_"))) or cast("str | None", node.get("kind"))


AnyDataset = Annotated[
    Annotated[ImageDataset, Tag("images")]
    | Annotated[OwnImages, Tag("own images")]
    | Annotated[TabularDataset, Tag("tabular")]
    | Annotated[OwnRows, Tag("own rows")]
    | Annotated[TextDataset, Tag("language")],
    Discriminator(_type_of),
]
KINDS: dict[str, type[Dataset]] = {"images": ImageDataset, "tabular": TabularDataset, "language": TextDataset}


def types_of(node: Node) -> tuple[type[Dataset], ...]:
    """The types that the keys of a stage's data set may be of: every kind's, as in earlier versions."""
    own = own_type(node)
    return (*KINDS.values(), own) if own else (*KINDS.values(),)


GIVEN = {"data_dir", "download", "device", "batch_size", "steps_per_epoch", "unroll", "munge"}
"""Arguments of a data set's function that are no settings of the data set."""


def _parameters(target: str) -> list[str] | None:
    """The settings that a user's function or class takes; None: any."""
    if not target.isprintable():
        return None  # the type of the target refuses it
    try:
        parameters = inspect.signature(pkgutil.resolve_name(target)).parameters.values()
    except Exception as error:
        cause = error.__cause__ or error
        raise PydanticCustomError(
            "broken_target",
            "names {target}, which cannot be imported: {cause}",
            {"target": target, "cause": str(cause).rstrip(".")},
        ) from error
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.name not in GIVEN]
