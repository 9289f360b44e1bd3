"""Labelled examples, images or rows: splits, the order of an epoch, and evaluation batches."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from ban.data.munge import Munge
from ban.errors import UserError
from ban.interfaces import Batch
from ban.streams import stream

EVALUATION_BATCH = 250
"""Examples per evaluation batch."""


class Labelled(NamedTuple):
    """Examples and their labels, in main memory."""

    inputs: NDArray[Any]
    """`[examples, height, width, channels]` bytes, or `[examples, features]`."""
    labels: NDArray[np.int64]
    """`[examples]`; -1 for unlabelled examples."""

    def first(self, classes: int) -> "Labelled":
        """The examples of the first `classes` classes.

        Raises:
            UserError: one of these classes has no examples.
        """
        chosen = self[self.labels < classes]
        if lost := sorted({*range(classes)} - {*chosen.labels.tolist()}):
            raise UserError(
                f"dataset.classes={classes} selects classes 0 to {classes - 1}, but the data have no examples of class "
                f"{lost[0]}."
            )
        return chosen

    def with_unlabelled(self, inputs: NDArray[Any]) -> "Labelled":
        """These examples, followed by `inputs` without labels."""
        labels = np.concatenate([self.labels, np.full(len(inputs), -1)])
        return Labelled(np.concatenate([self.inputs, inputs]), labels)

    @property
    def sha256(self) -> str:
        """A hash of the examples and their labels."""
        digest = hashlib.sha256(f"{self.inputs.dtype} {self.inputs.shape}".encode())
        for array in (self.inputs, self.labels):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def __getitem__(self, chosen: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Labelled":  # pyright: ignore[reportIncompatibleMethodOverride]
        """The chosen examples."""
        return Labelled(self.inputs[chosen], self.labels[chosen])


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
    labelled: int | None = None
    """Number of training examples that keep their labels, class-balanced; None: all."""
    unlabelled: bool = False
    """Whether the other training examples are kept as unlabelled examples, instead of left out."""
    munge: Munge | None = None
    """How to make additional synthetic training examples, which are unlabelled; None: no such examples."""

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
    pool: Labelled, test: Labelled | None, options: LabelledOptions, prepare: Callable[[Splits], Splits] | None = None
) -> Splits:
    """Draw class-balanced splits.

    Validation examples come from the end of the pool's order, so they do not depend on the number of training examples.

    Args:
        pool: the examples that training and validation examples are drawn from.
        test: the examples that test examples are drawn from; None: the rest of the pool.
        options: sizes, seed and label settings.
        prepare: a transformation of all splits. It sees all training examples, including those that lose their label
            or are left out by `options.labelled`.

    Raises:
        UserError: there are fewer examples than the options require.
    """
    pool = pool.first(options.classes)
    count = len(pool.labels)
    if options.train_size + options.validation_size > count:
        raise UserError(
            f"dataset.train_size={options.train_size} and dataset.validation_size={options.validation_size} add up to "
            f"more than the {count} training examples of the data set."
        )
    shuffled = pool[balanced_order(pool.labels, options.split_seed)]
    end = count - options.validation_size
    rest = shuffled[options.train_size : end]
    if test is not None:
        test = test.first(options.classes)
        rest = test[balanced_order(test.labels, options.split_seed)]
    if options.test_size > len(rest.labels):
        raise UserError(f"dataset.test_size={options.test_size}, but there are only {len(rest.labels)} test examples.")
    train = with_label_noise(shuffled[: options.train_size], options)
    splits = Splits(train, shuffled[end:], rest[: options.test_size])
    splits = prepare(splits) if prepare else splits
    return splits._replace(train=with_labels_hidden(splits.train, options))


def with_labels_hidden(train: Labelled, options: LabelledOptions) -> Labelled:
    """Keep the labels of the first `options.labelled` examples; the others are unlabelled, or left out.

    Raises:
        UserError: `options.labelled` is not between 1 and the number of training examples.
    """
    if options.labelled is None:
        return train
    if not 0 < options.labelled <= options.train_size:
        raise UserError(f"dataset.labelled={options.labelled} must be 1 to dataset.train_size={options.train_size}.")
    known = train[: options.labelled]
    return known.with_unlabelled(train.inputs[options.labelled :]) if options.unlabelled else known


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
        inputs, labels = (torch.from_numpy(each[start : start + EVALUATION_BATCH]).to(device) for each in chosen)
        yield Batch((inputs,), labels, torch.arange(start, start + len(labels), device=device))
