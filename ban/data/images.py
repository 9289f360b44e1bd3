"""Labelled images: split, kept on the device or read batch by batch, and augmented."""

import functools
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ban.data import inspection
from ban.data.augmentation import Distortion, Views
from ban.data.labelled import Gathered, Labelled
from ban.data.normalisation import PixelNormalisation
from ban.data.splits import (
    EVALUATION_BATCH,
    LabelledData,
    LabelledOptions,
    Splits,
    evaluation_batches,
    make_splits,
)
from ban.data.whitening import ZCA
from ban.errors import UserError
from ban.interfaces import Batch
from ban.streams import stream

LOOKED_AT = 10_000
"""Images whose brightness is compared with the normalisation."""
READ_AHEAD, READERS = 8, 2
"""Batches of streamed images that are ready or being read, and threads that read them."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions(LabelledOptions):
    """Settings of every data set of images."""

    shape: Sequence[int]
    """`[channels, height, width]`."""
    augmentation: Views
    views: int = 1
    """Number of independent views of each training image in a batch."""
    shared_flip: bool = False
    """Whether either all views of an image in a batch are flipped, or none."""
    partners: bool = False
    """Whether a batch has one more view, of another image of the same class for each image."""
    distortion: Mapping[str, Any] | None = None
    """Arguments of `Distortion`: what is done to the first view after its augmentation. A batch then has one more view,
    of its images as they are: without distortion and augmentation."""
    whitening: Literal["zca"] | None = None
    """Whitening before augmentation, computed from all training images, labelled or not; None: no whitening."""
    streamed: bool | None = None
    """Whether training images are read batch by batch; None: if they do not fit into half of the free memory."""


Options = ImageOptions
"""The name that users' modules import."""


def whitened(splits: Splits, device: torch.device) -> Splits:
    """All splits after ZCA whitening, which is computed from the training images."""
    zca = ZCA(splits.train.inputs, device)
    return Splits(*(Labelled(zca(np.asarray(split.inputs)), split.labels) for split in splits))


def statistics(images: NDArray[np.uint8] | Gathered) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel. They do not depend on the order of the images."""
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for start in range(0, len(images), EVALUATION_BATCH):
        for channel, pixels in enumerate(np.moveaxis(np.asarray(images[start : start + EVALUATION_BATCH]), -1, 0)):
            counts[channel] += np.bincount(pixels.ravel(), minlength=256)
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ np.arange(256.0)
    std = np.sqrt((shares * (np.arange(256.0) - mean[:, None]) ** 2).sum(1))
    return mean.tolist(), np.maximum(std, 1.0).tolist()


def check_partners(labels: NDArray[np.int64]) -> None:
    """Refuses labels of which one occurs a single time.

    Raises:
        UserError: a class has a single training image.
    """
    if len(alone := np.flatnonzero(np.bincount(labels[labels >= 0]) == 1)):
        raise UserError(
            f"class {alone[0]} has a single training image, but the method pairs images of one class: set "
            "dataset.train_size higher, or choose another method."
        )


def partners(labels: Int64[Tensor, " count"], generator: torch.Generator) -> Int64[Tensor, " count"]:
    """For each image another one of its class, drawn uniformly; for an unlabelled one itself."""
    by_class, counts = labels.argsort(stable=True), (labels + 1).bincount()
    first, size = (counts.cumsum(0) - counts)[labels + 1], counts[labels + 1]
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels))
    rank -= first
    shift = 1 + (torch.rand(len(labels), generator=generator, dtype=torch.float64) * (size - 1)).long()
    return by_class[first + (rank + torch.where(labels < 0, 0, shift)) % size]


class Images(LabelledData):
    """Images on a device. Batches are `[batch, channels, height, width]` in channels-last memory.

    The training images are one tensor on the device, of bytes or whitened, or are read ahead of the steps.

    Args:
        pool: images `[examples, height, width, channels]` in bytes, for training and validation, or what
            `ban.data.inspection.images` converts to that.
        test: images to draw the test set from; None: the rest of the pool.
        options: sizes, seeds, augmentation, batch size and device.
        validation: images to draw the validation set from; None: the end of the pool.

    Raises:
        UserError: the images are fewer than `options` requires, or are no images of the right shape.
    """

    examples = "images"

    def __init__(
        self, pool: Labelled, test: Labelled | None, options: ImageOptions, validation: Labelled | None = None
    ) -> None:
        pool = _inspected(pool, options, "")
        test = None if test is None else _inspected(test, options, "test ")
        validation = None if validation is None else _inspected(validation, options, "validation ")
        if not isinstance(pool.inputs, Gathered):  # else their origin knows it
            self.content = " ".join(part.sha256 for part in (pool, test, validation) if part is not None)
        if options.augmentation.std and not options.whitening:
            inspection.check_contrast(np.asarray(pool.inputs[:LOOKED_AT]), options.augmentation.std)
        prepare = functools.partial(whitened, device=options.device) if options.whitening else None
        self.splits = make_splits(pool, test, options, prepare, validation)
        train = self.splits.train
        if options.munge:
            synthetic = options.munge.images(np.asarray(train.inputs), options.munge_generator())
            train = train.with_unlabelled(synthetic)
        super().__init__(train, options)
        self.augmentation, self.partners = options.augmentation, options.partners
        self.distortion = Distortion(**options.distortion) if options.distortion else None
        self.shape = options.shape
        if self.partners:
            check_partners(train.labels)
        self.views, self.shared_flip = options.views, options.shared_flip and options.augmentation.flip
        channels, height, width = options.shape
        self._tables = [table.to(self.device) for table in self.augmentation.tables(height, width)]
        self.training_images = _source(train.inputs, options)
        self.mean, self.std = self.augmentation.mean, self.augmentation.std
        if options.whitening:  # whitened images are normalised already
            self.mean, self.std = [0.0] * channels, [1.0] * channels
        elif not self.mean or not self.std:
            found = statistics(self.splits.train.inputs)
            self.mean, self.std = self.mean or found[0], self.std or found[1]
        self.preprocessing = None if options.whitening else {"mean": [*self.mean], "std": [*self.std]}
        self._normalisation = PixelNormalisation(self.mean, self.std).to(self.device)

    def epoch(self, key: tuple[int, ...], epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on. They depend on `key` and `epoch` only."""

        def generator(purpose: str) -> torch.Generator:
            return torch.Generator().manual_seed(stream(*key, purpose, epoch))

        order = self.order(key, epoch)
        purposes = ["views", *(f"views {number}" for number in range(1, self.views + self.partners))]
        drawn = [
            torch.randint(self.augmentation.views, (self.count,), generator=generator(purpose)) for purpose in purposes
        ]
        if self.shared_flip:  # odd views are flipped
            drawn = [each // 2 * 2 + drawn[0] % 2 for each in drawn]
        of_shown = slice(len(order)) if self.repeated else order  # an image that is shown twice has two views
        drawn = [each[of_shown].to(self.device) for each in drawn]
        operations = None
        if self.distortion:
            operations = self.distortion.drawn(self.count, generator("distortion"))[of_shown].to(self.device)
        shown = [order]
        if self.partners:
            shown.append(partners(self._labels.cpu(), generator("partners"))[order])
        sources = [self._read(each, first_step) for each in shown]
        order = order.to(self.device)
        for step, images in enumerate(zip(*sources, strict=True), first_step):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            of_view = [images[0]] * self.views + [*images[1:]]  # stored images, and their places
            distorted = [None if operations is None else operations[batch], *[None] * (len(of_view) - 1)]
            views = [
                self.view(stored, at, draw[batch], each)
                for (stored, at), draw, each in zip(of_view, drawn, distorted, strict=True)
            ]
            plain = [] if operations is None else [self.plain(*images[0])]
            yield Batch((*views, *plain), self._labels[order[batch]], order[batch])

    def _read(
        self, order: Int64[Tensor, " count"], first_step: int
    ) -> Iterator[tuple[Tensor, Int64[Tensor, " batch"]]]:
        """The stored images of an epoch's batches, from a step on."""
        batches = [order[step * self.batch_size :][: self.batch_size] for step in range(self.steps_per_epoch)]
        return self.training_images.batches(batches[first_step:])

    def view(
        self,
        stored: Tensor,
        places: Int64[Tensor, " batch"],
        views: Int64[Tensor, " batch"],
        operations: Int64[Tensor, "batch operations"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """View number `views[i]` of the stored image `places[i]`, distorted, normalised, in channels-last memory."""
        rows, columns = (table[views] for table in self._tables)
        images = self.augmentation.view(stored, places, rows, columns)
        if self.distortion and operations is not None:
            images = self.distortion(images, operations)
        return self._normalise(images)

    def plain(self, stored: Tensor, places: Int64[Tensor, " batch"]) -> Float[Tensor, "batch channels height width"]:
        """The stored image `places[i]` without what augmentation adds around it, normalised."""
        _, height, width = self.shape
        top, left = (stored.shape[1] - height) // 2, (stored.shape[2] - width) // 2
        return self._normalise(stored[places, top : top + height, left : left + width])

    def _normalise(
        self, images: UInt8[Tensor, "batch height width channels"] | Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self._normalisation(images.permute(0, 3, 1, 2))

    def evaluation(self, split: str) -> Iterator[Batch]:
        """All labelled images of a split without augmentation, normalised, in a fixed order."""
        for batch in evaluation_batches(getattr(self.splits, split), self.device):
            yield batch._replace(views=(self._normalise(batch.views[0]),))


# Where training images are


class Resident:
    """Training images in the memory of the device."""

    def __init__(self, stored: NDArray[Any], device: torch.device) -> None:
        self.stored, self.device = torch.from_numpy(stored).to(device), device

    def batches(self, chosen: Sequence[Int64[Tensor, " batch"]]) -> Iterator[tuple[Tensor, Int64[Tensor, " batch"]]]:
        """For each batch the stored images, and the places of those that are chosen."""
        if chosen:
            yield from ((self.stored, places) for places in torch.cat([*chosen]).to(self.device).split(len(chosen[0])))


class Streamed:
    """Training images in a file, read ahead of the steps by a thread, and sent without waiting for the device."""

    def __init__(self, images: Gathered, augmentation: Views, device: torch.device) -> None:
        self.images, self.augmentation, self.device = images, augmentation, device

    def batches(self, chosen: Sequence[Int64[Tensor, " batch"]]) -> Iterator[tuple[Tensor, Int64[Tensor, " batch"]]]:
        """For each batch its images alone, and their places."""
        waiting, left = deque[Future[Tensor]](), iter(chosen)
        with ThreadPoolExecutor(READERS) as pool:
            try:
                waiting += [pool.submit(self._read, batch) for batch in islice(left, READ_AHEAD)]
                while waiting:
                    stored = waiting.popleft().result().to(self.device, non_blocking=True)
                    waiting += [pool.submit(self._read, batch) for batch in islice(left, 1)]
                    yield stored, torch.arange(len(stored), device=self.device)
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, batch: Int64[Tensor, " batch"]) -> Tensor:
        images = torch.from_numpy(self.augmentation.stored(np.asarray(self.images[batch.numpy()])))
        return images.pin_memory() if self.device.type == "cuda" else images


def _inspected(part: Labelled, options: ImageOptions, name: str) -> Labelled:
    return part if isinstance(part.inputs, Gathered) else inspection.images(part, options.shape, name)


def _source(images: NDArray[Any] | Gathered, options: ImageOptions) -> Resident | Streamed:
    if not isinstance(images, Gathered):
        return Resident(options.augmentation.stored(images), options.device)
    streamed = options.streamed
    if streamed is None:
        streamed = math.prod(images.shape) > free_memory(options.device) / 2
    if streamed:
        return Streamed(images, options.augmentation, options.device)
    return Resident(options.augmentation.stored(np.asarray(images)), options.device)


def free_memory(device: torch.device) -> float:
    """Bytes that a tensor on the device may take; infinite where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf
