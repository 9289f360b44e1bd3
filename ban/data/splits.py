"""Labelled examples, images or rows: splits, the order of an epoch, and evaluation batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from ban.data.labelled import Labelled, proportional_order
from ban.data.munge import Munge
from ban.errors import UserError
from ban.interfaces import Batch
from ban.streams import stream

EVALUATION_BATCH = 250
"""Examples per evaluation batch."""


def balanced_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A random order of which any first n examples are class-balanced, up to one example per class.

    So are any last n examples, if all classes have the same number of examples.
    """
    generator = torch.Generator().manual_seed(stream(seed, "split"))
    shuffled = torch.randperm(len(labels), generator=generator).numpy()
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    return shuffled[np.argsort(rank[shuffled], kind="stable")]


class Splits(NamedTuple):
    """Training, validation (possibly empty) and test examples."""

    train: Labelled
    validation: Labelled
    test: Labelled


@dataclass(frozen=True, kw_only=True)
class LabelledOptions:
    """Settings of every data set of labelled examples: the dataset's YAML, and what the recipe and machine add."""

    classes: int
    train_size: int
    validation_size: int
    test_size: int
    split_seed: int
    label_noise: float
    """Fraction of the training labels that is replaced by a different class, drawn uniformly."""
    batch_size: int
    steps_per_epoch: int | None
    """Number of steps, to shorten epochs; None: one step for each full batch."""
    device: torch.device
    order: Literal["content"] | None = None
    """Of the examples before they are split; None: as they are stored."""
    labelled: int | None = None
    """Number of training examples that keep their labels, class-balanced; None: all."""
    unlabelled: bool = False
    """Whether the other training examples are kept as unlabelled examples, instead of left out."""
    munge: Munge | None = None
    """How to make additional synthetic training examples, which are unlabelled; None: no such examples."""
    repeated: bool = False
    """Whether the first half of a batch shows the second half of the batch before again: an epoch of as many steps then
    shows half of the examples, twice."""
    proportional: bool = False
    """Whether all splits have the classes in their proportions, rather than equally many examples of each."""

    @property
    def held_out(self) -> list[str]:
        """The splits that are not trained on."""
        return ["test", "validation"] if self.validation_size else ["test"]

    def steps_of(self, count: int) -> int:
        """Steps of an epoch over `count` training examples. The last, partial batch is dropped.

        Raises:
            UserError: the examples do not fill one batch.
        """
        if self.batch_size > count:
            raise UserError(
                f"recipe.batch_size={self.batch_size} is larger than the training set of {count} examples: set "
                f"recipe.batch_size to {count} or less."
            )
        return min(count // self.batch_size, self.steps_per_epoch or count)

    def munge_generator(self) -> np.random.Generator:
        """The generator for synthetic examples: they depend on the split alone, not on the training's seed."""
        return np.random.default_rng(stream(self.split_seed, "munge"))


def make_splits(
    pool: Labelled,
    test: Labelled | None,
    options: LabelledOptions,
    prepare: Callable[[Splits], Splits] | None = None,
    validation: Labelled | None = None,
) -> Splits:
    """Draw splits, class-balanced unless they are to be proportional.

    Validation examples come from the end of the pool's order, so they do not depend on the number of training examples.

    Args:
        pool: the examples that training and validation examples are drawn from.
        test: the examples that test examples are drawn from; None: the rest of the pool.
        options: sizes, seed and label settings.
        prepare: a transformation of all splits. It sees all training examples, including those that lose their label
            or are left out by `options.labelled`.
        validation: the examples that validation examples are drawn from; None: the end of the pool.

    Raises:
        UserError: there are fewer examples than the options require.
    """
    pool = pool.first(options.classes)
    if options.order == "content":
        pool, test = pool.by_content(), test and test.by_content()
    count = len(pool.labels)
    reserved = 0 if validation else options.validation_size
    if options.train_size + reserved > count:
        raise UserError(
            f"dataset.train_size={options.train_size} and dataset.validation_size={options.validation_size} add up to "
            f"more than the {count} training examples of the data set."
            if reserved
            else f"dataset.train_size={options.train_size}, but there are only {count} training examples."
        )
    shuffled = pool[_order(pool.labels, options)]
    end = count - reserved
    rest, held_out = shuffled[options.train_size : end], shuffled[end:]
    if test is not None:
        rest = _drawn(test, options, options.test_size, "test")
    if validation is not None:
        held_out = _drawn(validation, options, options.validation_size, "validation")
    if options.test_size > len(rest.labels):
        raise UserError(f"dataset.test_size={options.test_size}, but there are only {len(rest.labels)} test examples.")
    train = with_label_noise(shuffled[: options.train_size], options)
    splits = Splits(train, held_out, rest[: options.test_size])
    splits = prepare(splits) if prepare else splits
    return splits._replace(train=with_labels_hidden(splits.train, options))


def _order(labels: NDArray[np.int64], options: LabelledOptions) -> NDArray[np.int64]:
    """Balanced as in 0.2.0; examples in the order of their content in proportion, as own images and rows are."""
    unequal = len({*np.unique(labels, return_counts=True)[1].tolist()}) > 1
    proportional = options.proportional or (options.order == "content" and unequal)
    return (proportional_order if proportional else balanced_order)(labels, options.split_seed)


def _drawn(part: Labelled, options: LabelledOptions, size: int, name: str) -> Labelled:
    """The first `size` examples of a split of its own, class-balanced."""
    part = part[part.labels < options.classes]
    if size > len(part.labels):
        raise UserError(f"dataset.{name}_size={size}, but there are only {len(part.labels)} {name} examples.")
    return part[_order(part.labels, options)][:size]


def with_labels_hidden(train: Labelled, options: LabelledOptions) -> Labelled:
    """Keep the labels of the first `options.labelled` examples; the others are unlabelled, or left out.

    Raises:
        UserError: `options.labelled` is not between 1 and the number of training examples.
    """
    if options.labelled is None:
        return train
    if not 0 < options.labelled <= options.train_size:
        raise UserError(f"dataset.labelled={options.labelled} must be 1 to dataset.train_size={options.train_size}.")
    if not options.unlabelled:
        return train[: options.labelled]
    return train._replace(labels=np.where(np.arange(len(train.labels)) < options.labelled, train.labels, -1))


def with_label_noise(clean: Labelled, options: LabelledOptions) -> Labelled:
    """The same examples, of which the fraction `options.label_noise` has the label of a different class."""
    generator = np.random.default_rng(stream(options.split_seed, "label noise"))
    noisy = generator.permutation(len(clean.labels))[: round(options.label_noise * len(clean.labels))]
    labels = clean.labels.copy()
    labels[noisy] = (labels[noisy] + generator.integers(1, options.classes, len(noisy))) % options.classes
    return Labelled(clean.inputs, labels)


class LabelledData:
    """What data sets of images and of rows have in common; they add the inputs.

    Raises:
        UserError: the training examples do not fill one batch.
    """

    vocabulary = ()
    spelling = None
    unknown_percent: ClassVar[dict[str, float]] = {}

    def __init__(self, train: Labelled, options: LabelledOptions) -> None:
        self.count, self.batch_size, self.device = len(train.labels), options.batch_size, options.device
        self.steps_per_epoch, self.examples_per_step = options.steps_of(self.count), self.batch_size
        self.held_out = options.held_out
        self._labels = torch.from_numpy(train.labels).to(self.device)
        self.repeated = options.repeated

    def order(self, key: tuple[int, ...], epoch: int) -> Int64[Tensor, " shown"]:
        """The examples of an epoch's batches, one after the other."""
        order = epoch_order(self.count, key, epoch)
        if not self.repeated:
            return order
        return order.unfold(0, self.batch_size, max(1, self.batch_size // 2))[: self.steps_per_epoch].flatten()

    def recorded(
        self, log_probabilities: Float[Tensor, "batch classes"], targets: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """All log-probabilities, as they are."""
        return log_probabilities


def epoch_order(count: int, key: tuple[int, ...], epoch: int) -> Int64[Tensor, " count"]:
    """The order of the examples in an epoch. It depends on `key` and `epoch`, not on the device."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream(*key, "order", epoch)))


def evaluation_batches(split: Labelled, device: torch.device) -> Iterator[Batch]:
    """Batches of all labelled examples of a split, in stored order and without augmentation."""
    chosen = split[split.labels >= 0]
    for start in range(0, len(chosen.labels), EVALUATION_BATCH):
        inputs, labels = (
            torch.from_numpy(np.asarray(each[start : start + EVALUATION_BATCH])).to(device) for each in chosen
        )
        yield Batch((inputs,), labels, torch.arange(start, start + len(labels), device=device))
