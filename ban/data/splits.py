"""What all labelled examples share, images and rows: splits, the order of an epoch, and plain evaluation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from ban.data.munge import Munge
from ban.errors import UserError
from ban.interfaces import Batch
from ban.streams import stream

EVALUATION_BATCH = 250


class Labelled(NamedTuple):
    """Examples and their labels, in memory."""

    inputs: NDArray[Any]
    """[examples, height, width, channels] bytes, or [examples, features]"""
    labels: NDArray[np.int64]

    def first(self, classes: int) -> "Labelled":
        """Only the examples of the first `classes` classes.

        Raises:
            UserError: of one of them there is none.
        """
        chosen = self[self.labels < classes]
        if lost := sorted({*range(classes)} - {*chosen.labels.tolist()}):
            raise UserError(
                f"dataset.classes={classes} are classes 0 to {classes - 1}, and the data have no {lost[0]}."
            )
        return chosen

    def with_unlabelled(self, inputs: NDArray[Any]) -> "Labelled":
        """These examples, then others without labels."""
        labels = np.concatenate([self.labels, np.full(len(inputs), -1)])
        return Labelled(np.concatenate([self.inputs, inputs]), labels)

    def __getitem__(self, chosen: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Labelled":  # pyright: ignore[reportIncompatibleMethodOverride]
        """The chosen examples."""
        return Labelled(self.inputs[chosen], self.labels[chosen])


def balanced_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A random order in which every beginning holds all classes as equally as it can.

    So does every end, where all classes have equally many examples.
    """
    generator = torch.Generator().manual_seed(stream(seed, "split"))
    shuffled = torch.randperm(len(labels), generator=generator).numpy()
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    return shuffled[np.argsort(rank[shuffled], kind="stable")]


class Splits(NamedTuple):
    """Training, validation (perhaps empty) and test examples."""

    train: Labelled
    validation: Labelled
    test: Labelled


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every labelled data set is asked for, wherever its examples come from."""

    classes: int
    train_size: int
    validation_size: int
    test_size: int
    split_seed: int
    label_noise: float
    """The part of the training labels that is replaced by another class, drawn uniformly."""
    batch_size: int
    steps_per_epoch: int | None
    """Stop an epoch early; None: all full batches."""
    device: torch.device
    labelled: int | None = None
    """Only so many training examples, the same of each class, have labels; None: all."""
    unlabelled: bool = False
    """Whether the others are there, without their labels."""
    munge: Munge | None = None
    """Synthetic training examples, without labels, beside the others."""

    @property
    def held_out(self) -> list[str]:
        """What is not trained on."""
        return ["test", "validation"] if self.validation_size else ["test"]

    def steps_of(self, count: int) -> int:
        """Steps of an epoch over so many training examples; the last partial batch is dropped.

        Raises:
            UserError: they do not fill one batch.
        """
        if self.batch_size > count:
            raise UserError(
                f"recipe.batch_size={self.batch_size} is larger than the training set of {count} examples: set "
                f"recipe.batch_size to {count} or less."
            )
        return min(count // self.batch_size, self.steps_per_epoch or count)

    def munge_generator(self) -> np.random.Generator:
        """The same synthetic examples for the same split, whoever is trained."""
        return np.random.default_rng(stream(self.split_seed, "munge"))


def make_splits(
    pool: Labelled, test: Labelled | None, options: Options, prepare: Callable[[Splits], Splits] | None = None
) -> Splits:
    """Class-balanced splits. Without test examples of its own, the test set comes from what is left of the pool.

    Validation examples come from the end of the pool's order, so they do not depend on the number of training examples.
    `prepare` sees all training examples, those whose labels will be hidden or that will be left out included.

    Raises:
        UserError: there are not enough examples.
    """
    pool = pool.first(options.classes)
    count = len(pool.labels)
    if options.train_size + options.validation_size > count:
        raise UserError(
            f"dataset.train_size={options.train_size} and dataset.validation_size={options.validation_size} together "
            f"ask for more than the {count} training examples there are."
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


def with_labels_hidden(train: Labelled, options: Options) -> Labelled:
    """Labels for the first examples only, which are class-balanced; the others have -1, or are left out.

    Raises:
        UserError: there are not that many training examples.
    """
    if options.labelled is None:
        return train
    if not 0 < options.labelled <= options.train_size:
        raise UserError(f"dataset.labelled={options.labelled}: choose 1 to dataset.train_size={options.train_size}.")
    known = train[: options.labelled]
    return known.with_unlabelled(train.inputs[options.labelled :]) if options.unlabelled else known


def with_label_noise(clean: Labelled, options: Options) -> Labelled:
    """The same examples, a part of them with another class's label."""
    generator = np.random.default_rng(stream(options.split_seed, "label noise"))
    noisy = generator.permutation(len(clean.labels))[: round(options.label_noise * len(clean.labels))]
    labels = clean.labels.copy()
    labels[noisy] = (labels[noisy] + generator.integers(1, options.classes, len(noisy))) % options.classes
    return Labelled(clean.inputs, labels)


def epoch_order(count: int, key: tuple[int, ...], epoch: int) -> Int64[Tensor, " count"]:
    """The order of an epoch: the same for the same key and epoch, on every device."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream(*key, "order", epoch)))


def evaluation_batches(split: Labelled, device: torch.device) -> Iterator[Batch]:
    """All labelled examples of a split as they are stored, in a fixed order."""
    chosen = split[split.labels >= 0]
    for start in range(0, len(chosen.labels), EVALUATION_BATCH):
        inputs, labels = (torch.from_numpy(each[start : start + EVALUATION_BATCH]).to(device) for each in chosen)
        yield Batch((inputs,), labels, torch.arange(start, start + len(labels), device=device))
