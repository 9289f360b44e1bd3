"""Labelled images: drawn into splits, kept on the device, augmented a batch at a time."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ban.data.splits import Labelled, Splits, epoch_order, evaluation_batches, make_splits
from ban.data.splits import Options as SplitOptions
from ban.data.whitening import ZCA
from ban.errors import UserError
from ban.interfaces import Batch
from ban.streams import stream


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


@dataclass(frozen=True, kw_only=True)
class Options(SplitOptions):
    """What every image set is asked for, wherever its images come from."""

    shape: Sequence[int]
    """[channels, height, width]"""
    augmentation: Augmentation
    views: int = 1
    """Different views of each training image in a batch."""
    shared_flip: bool = False
    """Whether the views of an image are flipped together."""
    whitening: Literal["zca"] | None = None
    """Before everything else, learnt from all training images, with and without label; None: none."""


def whitened(splits: Splits, device: torch.device) -> Splits:
    """ZCA by all training images."""
    zca = ZCA(splits.train.inputs, device)
    return Splits(*(Labelled(zca(split.inputs), split.labels) for split in splits))


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
        if options.whitening and options.munge:
            raise UserError("MUNGE makes images in bytes, and dataset.whitening others: leave one of them out.")
        prepare = functools.partial(whitened, device=options.device) if options.whitening else None
        self.splits = make_splits(pool, test, options, prepare)
        train = self.splits.train
        if options.munge:
            train = train.with_unlabelled(options.munge.images(train.inputs, options.munge_generator()))
        self.count, self.batch_size, self.device = len(train.labels), options.batch_size, options.device
        self.steps_per_epoch, self.examples_per_step = options.steps_of(self.count), self.batch_size
        self.held_out = options.held_out
        self.augmentation, device = options.augmentation, options.device
        self.views, self.shared_flip = options.views, options.shared_flip and options.augmentation.flip
        height, width, channels = train.inputs.shape[1:]
        if [channels, height, width] != list(options.shape):
            raise UserError(f"dataset.shape is {options.shape}, but the images are {[channels, height, width]}.")
        pad, mode = self.augmentation.pad, self.augmentation.pad_mode
        padded = np.pad(train.inputs, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
        self._padded = torch.from_numpy(padded).to(device)
        self._labels = torch.from_numpy(train.labels).to(device)
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

        order = epoch_order(self.count, key, epoch)
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
        for batch in evaluation_batches(getattr(self.splits, split), self.device):
            yield batch._replace(views=(self._normalise(batch.views[0]),))
