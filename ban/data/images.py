"""Labelled images: drawn into splits, kept on the device, augmented a batch at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ban.data.whitening import ZCA
from ban.errors import UserError
from ban.interfaces import Batch
from ban.streams import stream

EVALUATION_BATCH = 250


class Labelled(NamedTuple):
    """Images and their labels, in memory."""

    images: NDArray[np.uint8] | NDArray[np.float32]
    """[examples, height, width, channels]: bytes, or whitened"""
    labels: NDArray[np.int64]

    def first(self, classes: int) -> "Labelled":
        """Only the images of the first `classes` classes."""
        kept = self.labels < classes
        return Labelled(self.images[kept], self.labels[kept])

    def __getitem__(self, chosen: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Labelled":  # pyright: ignore[reportIncompatibleMethodOverride]
        """The chosen examples."""
        return Labelled(self.images[chosen], self.labels[chosen])


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
    """Training, validation (perhaps empty) and test images."""

    train: Labelled
    validation: Labelled
    test: Labelled


@dataclass(frozen=True)
class Augmentation:
    """Pad, crop back to size at random, flip left to right at random; then normalise.

    The views of an image are finite: (2 · pad + 1)² crops, twice that with `flip`. View numbers are drawn on the CPU,
    so that every device sees the same views.
    """

    pad: int
    pad_mode: Literal["reflect", "constant"]
    flip: bool
    mean: Sequence[float]
    std: Sequence[float]
    """Per channel, in units of the stored bytes; of no use to whitened images."""

    @property
    def views(self) -> int:
        """The number of views of an image."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    def tables(self, height: int, width: int) -> tuple[Int64[Tensor, "views height"], Int64[Tensor, "views width"]]:
        """Which rows and columns of the padded image each view consists of."""
        crops = torch.arange(self.views) // (2 if self.flip else 1)
        side = 2 * self.pad + 1
        rows = (crops // side)[:, None] + torch.arange(height)
        columns = (crops % side)[:, None] + torch.arange(width)
        if self.flip:
            columns[1::2] = columns[1::2].flip(1)
        return rows, columns


@dataclass(frozen=True)
class Options:
    """What every image set is asked for, wherever its images come from."""

    classes: int
    shape: Sequence[int]
    """[channels, height, width]"""
    train_size: int
    validation_size: int
    test_size: int
    split_seed: int
    label_noise: float
    """The part of the training labels that is replaced by another class, drawn uniformly."""
    augmentation: Augmentation
    batch_size: int
    steps_per_epoch: int | None
    """Stop an epoch early; None: all full batches."""
    device: torch.device
    labelled: int | None = None
    """Only so many training images, the same of each class, have labels; None: all."""
    unlabelled: bool = False
    """Whether the others are there, without their labels."""
    views: int = 1
    """Different views of each training image in a batch."""
    shared_flip: bool = False
    """Whether the views of an image are flipped together."""
    whitening: Literal["zca"] | None = None
    """Before everything else, learnt from all training images, with and without label; None: none."""


def draw(pool: Labelled, test: Labelled | None, options: Options) -> Splits:
    """Class-balanced splits. Without test images of its own, the test set comes from what is left of the pool.

    Validation images come from the end of the pool's order, so they do not depend on the number of training images.

    Raises:
        UserError: there are not enough images.
    """
    count = len(pool.labels)
    if options.train_size + options.validation_size > count:
        raise UserError(
            f"dataset.train_size={options.train_size} and dataset.validation_size={options.validation_size} together "
            f"ask for more than the {count} training images there are."
        )
    shuffled = pool[balanced_order(pool.labels, options.split_seed)]
    end = count - options.validation_size
    left = shuffled[options.train_size : end]
    rest = left if test is None else test[balanced_order(test.labels, options.split_seed)]
    if options.test_size > len(rest.labels):
        raise UserError(f"dataset.test_size={options.test_size}, but there are only {len(rest.labels)} test images.")
    train = with_label_noise(shuffled[: options.train_size], options)
    splits = Splits(with_labels_hidden(train, options), shuffled[end:], rest[: options.test_size])
    return splits if options.whitening is None else whitened(splits, ZCA(train.images, options.device))


def whitened(splits: Splits, zca: ZCA) -> Splits:
    """The same images, whitened."""
    return Splits(*(Labelled(zca(split.images), split.labels) for split in splits))


def with_labels_hidden(train: Labelled, options: Options) -> Labelled:
    """Labels for the first images only, which are class-balanced; the others have -1, or are left out.

    Raises:
        UserError: there are not that many training images.
    """
    if options.labelled is None:
        return train
    if not 0 < options.labelled <= options.train_size:
        raise UserError(f"dataset.labelled={options.labelled}: choose 1 to dataset.train_size={options.train_size}.")
    if not options.unlabelled:
        return train[: options.labelled]
    labels = train.labels.copy()
    labels[options.labelled :] = -1
    return Labelled(train.images, labels)


def with_label_noise(clean: Labelled, options: Options) -> Labelled:
    """The same images, a part of them with another class's label."""
    generator = np.random.default_rng(stream(options.split_seed, "label noise"))
    noisy = generator.permutation(len(clean.labels))[: round(options.label_noise * len(clean.labels))]
    labels = clean.labels.copy()
    labels[noisy] = (labels[noisy] + generator.integers(1, options.classes, len(noisy))) % options.classes
    return Labelled(clean.images, labels)


class Images:
    """A data set on a device: training images as one tensor, of bytes or whitened, one gather per batch."""

    examples = "images"
    vocabulary = ()
    spelling = None

    def __init__(self, pool: Labelled, test: Labelled | None, options: Options) -> None:
        """Draws the splits from the pool and moves the training images to the device.

        Raises:
            UserError: there are not enough images for what is asked.
        """
        first = None if test is None else test.first(options.classes)
        self.splits = splits = draw(pool.first(options.classes), first, options)
        self.count, self.batch_size, self.device = len(splits.train.labels), options.batch_size, options.device
        if self.batch_size > self.count:
            raise UserError(
                f"recipe.batch_size={self.batch_size} is larger than the training set of {self.count} images: set "
                f"recipe.batch_size to {self.count} or less."
            )
        self.examples_per_step = self.batch_size
        self.held_out = ["test", "validation"] if options.validation_size else ["test"]
        """What is not trained on."""
        self.steps_per_epoch = min(self.count // self.batch_size, options.steps_per_epoch or self.count)
        """The last partial batch is dropped."""
        self.augmentation, device = options.augmentation, options.device
        self.views, self.shared_flip = options.views, options.shared_flip and options.augmentation.flip
        height, width, channels = splits.train.images.shape[1:]
        if [channels, height, width] != list(options.shape):
            raise UserError(f"dataset.shape is {options.shape}, but the images are {[channels, height, width]}.")
        pad, mode = self.augmentation.pad, self.augmentation.pad_mode
        padded = np.pad(splits.train.images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
        self._padded = torch.from_numpy(padded).to(device)
        self._labels = torch.from_numpy(splits.train.labels).to(device)
        self._rows, self._columns = (table.to(device) for table in self.augmentation.tables(height, width))
        mean, std = self.augmentation.mean, self.augmentation.std
        if options.whitening:  # has done that
            mean, std = [0.0] * channels, [1.0] * channels
        self._scale = 1 / torch.tensor(std, device=device).view(1, -1, 1, 1)
        self._shift = -torch.tensor(mean, device=device).view(1, -1, 1, 1) * self._scale

    def epoch(self, key: tuple[int, ...], epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from `first_step` on: the same for the same key and epoch, wherever it starts."""

        def draw_stream(purpose: str) -> torch.Generator:
            return torch.Generator().manual_seed(stream(*key, purpose, epoch))

        order = torch.randperm(self.count, generator=draw_stream("order"))
        purposes = ["views", *(f"views {number}" for number in range(1, self.views))]
        drawn = [
            torch.randint(self.augmentation.views, (self.count,), generator=draw_stream(purpose))
            for purpose in purposes
        ]
        if self.shared_flip:  # the last bit of a view says whether it is flipped
            drawn = [each // 2 * 2 + drawn[0] % 2 for each in drawn]
        drawn = [each[order].to(self.device) for each in drawn]
        order = order.to(self.device)
        for step in range(first_step, self.steps_per_epoch):
            here = slice(step * self.batch_size, (step + 1) * self.batch_size)
            indices = order[here]
            yield Batch(tuple(self.view(indices, each[here]) for each in drawn), self._labels[indices], indices)

    def view(
        self, indices: Int64[Tensor, " batch"], views: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The given view of the given training images, normalised, in channels-last memory."""
        rows, columns = self._rows[views], self._columns[views]
        return self._normalise(self._padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]])

    def _normalise(
        self, images: UInt8[Tensor, "batch height width channels"] | Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch channels height width"]:
        return torch.addcmul(self._shift, images.permute(0, 3, 1, 2).float(), self._scale)

    def evaluation(self, split: str) -> Iterator[Batch]:
        """All labelled images of a split as they are, in a fixed order."""
        chosen: Labelled = getattr(self.splits, split)
        chosen = chosen[chosen.labels >= 0]
        for start in range(0, len(chosen.labels), EVALUATION_BATCH):
            here = slice(start, start + EVALUATION_BATCH)
            images = self._normalise(torch.from_numpy(chosen.images[here]).to(self.device))
            labels = torch.from_numpy(chosen.labels[here]).to(self.device)
            yield Batch((images,), labels, torch.arange(start, start + len(labels), device=self.device))
