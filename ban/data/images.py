"""Labelled images: split, kept on the device, and augmented batch by batch."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ban.data import inspection
from ban.data.splits import (
    Labelled,
    LabelledData,
    LabelledOptions,
    Splits,
    epoch_order,
    evaluation_batches,
    make_splits,
)
from ban.data.whitening import ZCA
from ban.errors import UserError
from ban.interfaces import Batch
from ban.ranges import PositiveNumber, ZeroTo1000
from ban.streams import stream


@dataclass(frozen=True)
class Augmentation:
    """Padding, a random crop of the original size, a random horizontal flip, and normalisation.

    An image has (2 · pad + 1)² views, one per crop, and twice as many with `flip`. Views are numbered, and the numbers
    are drawn on the CPU, so that every device gets the same views.
    """

    pad: ZeroTo1000
    pad_mode: Literal["reflect", "constant"]
    flip: bool
    mean: Sequence[float]
    std: Sequence[PositiveNumber]
    """Mean and standard deviation of each channel, in units of the stored bytes; not used for whitened images."""

    @property
    def views(self) -> int:
        """Number of views of an image."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    def tables(self, height: int, width: int) -> tuple[Int64[Tensor, "views height"], Int64[Tensor, "views width"]]:
        """The rows and columns of the padded image that each view consists of."""
        crops = torch.arange(self.views) // (2 if self.flip else 1)
        side = 2 * self.pad + 1
        rows = (crops // side)[:, None] + torch.arange(height)
        columns = (crops % side)[:, None] + torch.arange(width)
        if self.flip:
            columns[1::2] = columns[1::2].flip(1)
        return rows, columns


@dataclass(frozen=True, kw_only=True)
class ImageOptions(LabelledOptions):
    """Settings of every data set of images."""

    shape: Sequence[int]
    """`[channels, height, width]`."""
    augmentation: Augmentation
    views: int = 1
    """Number of independent views of each training image in a batch."""
    shared_flip: bool = False
    """Whether either all views of an image in a batch are flipped, or none."""
    whitening: Literal["zca"] | None = None
    """Whitening before augmentation, computed from all training images, labelled or not; None: no whitening."""


Options = ImageOptions
"""The name that users' modules import."""


def whitened(splits: Splits, device: torch.device) -> Splits:
    """All splits after ZCA whitening, which is computed from the training images."""
    zca = ZCA(splits.train.inputs, device)
    return Splits(*(Labelled(zca(split.inputs), split.labels) for split in splits))


class Images(LabelledData):
    """Images on a device. Batches are `[batch, channels, height, width]` in channels-last memory.

    The training images are one tensor, of bytes or whitened, and a batch of views takes one gather.

    Args:
        pool: images `[examples, height, width, channels]` in bytes, for training and validation, or what
            `ban.data.inspection.images` converts to that.
        test: images to draw the test set from; None: the rest of the pool.
        options: sizes, seeds, augmentation, batch size and device.

    Raises:
        UserError: the images are fewer than `options` requires, or are no images of the right shape.
    """

    examples = "images"

    def __init__(self, pool: Labelled, test: Labelled | None, options: ImageOptions) -> None:
        if options.whitening and options.munge:
            raise UserError("MUNGE needs images in bytes: set dataset.whitening=null, or choose another method.")
        pool = inspection.images(pool, options.shape)
        test = None if test is None else inspection.images(test, options.shape, "test ")
        self.content = pool.sha256 if test is None else f"{pool.sha256} {test.sha256}"
        if not options.whitening:
            inspection.check_contrast(pool.inputs, options.augmentation.std)
        prepare = functools.partial(whitened, device=options.device) if options.whitening else None
        self.splits = make_splits(pool, test, options, prepare)
        train = self.splits.train
        if options.munge:
            train = train.with_unlabelled(options.munge.images(train.inputs, options.munge_generator()))
        super().__init__(train, options)
        self.augmentation = options.augmentation
        self.views, self.shared_flip = options.views, options.shared_flip and options.augmentation.flip
        channels, height, width = options.shape
        pad, mode = self.augmentation.pad, self.augmentation.pad_mode
        padded = np.pad(train.inputs, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
        self._padded = torch.from_numpy(padded).to(self.device)
        self._rows, self._columns = (table.to(self.device) for table in self.augmentation.tables(height, width))
        mean, std = self.augmentation.mean, self.augmentation.std
        if options.whitening:  # whitened images are normalised already
            mean, std = [0.0] * channels, [1.0] * channels
        self._scale = 1 / torch.tensor(std, device=self.device).view(1, -1, 1, 1)
        self._shift = -torch.tensor(mean, device=self.device).view(1, -1, 1, 1) * self._scale

    def epoch(self, key: tuple[int, ...], epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on. They depend on `key` and `epoch` only."""

        def generator(purpose: str) -> torch.Generator:
            return torch.Generator().manual_seed(stream(*key, purpose, epoch))

        order = epoch_order(self.count, key, epoch)
        purposes = ["views", *(f"views {number}" for number in range(1, self.views))]
        drawn = [
            torch.randint(self.augmentation.views, (self.count,), generator=generator(purpose)) for purpose in purposes
        ]
        if self.shared_flip:  # odd views are flipped
            drawn = [each // 2 * 2 + drawn[0] % 2 for each in drawn]
        drawn = [each[order].to(self.device) for each in drawn]
        order = order.to(self.device)
        for step in range(first_step, self.steps_per_epoch):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            indices = order[batch]
            yield Batch(tuple(self.view(indices, each[batch]) for each in drawn), self._labels[indices], indices)

    def view(
        self, indices: Int64[Tensor, " batch"], views: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """View number `views[i]` of training image `indices[i]`, normalised, in channels-last memory."""
        rows, columns = self._rows[views], self._columns[views]
        return self._normalise(self._padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]])

    def _normalise(
        self, images: UInt8[Tensor, "batch height width channels"] | Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch channels height width"]:
        return torch.addcmul(self._shift, images.permute(0, 3, 1, 2).float(), self._scale)

    def evaluation(self, split: str) -> Iterator[Batch]:
        """All labelled images of a split without augmentation, normalised, in a fixed order."""
        for batch in evaluation_batches(getattr(self.splits, split), self.device):
            yield batch._replace(views=(self._normalise(batch.views[0]),))
