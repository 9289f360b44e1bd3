"""Random views of images: each image has a finite number of them, which are numbered."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Num
from numpy.typing import NDArray
from torch import Tensor

from ban.ranges import PositiveNumber, Share, UpTo1000, ZeroTo1000
from ban.streams import stream


class Views(ABC):
    """The views of an image, and its normalisation.

    The numbers of views are drawn on the CPU, so that every device gets the same views.
    """

    flip: bool
    """Whether views of odd numbers are flipped horizontally."""
    mean: Sequence[float] | None
    std: Sequence[PositiveNumber] | None
    """Mean and standard deviation of each channel, in units of the stored bytes; None: those of the training images.
    Not used for whitened images."""

    @property
    @abstractmethod
    def views(self) -> int:
        """Number of views of an image."""

    @abstractmethod
    def tables(self, height: int, width: int) -> tuple[Num[Tensor, "views height"], Num[Tensor, "views width"]]:
        """Where the rows and the columns of each view are in a stored image."""

    def stored(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images `[examples, height, width, channels]` as `view` needs them."""
        return images

    @abstractmethod
    def view(
        self,
        stored: Num[Tensor, "stored stored_height stored_width channels"],
        chosen: Int64[Tensor, " batch"],
        rows: Num[Tensor, "batch height"],
        columns: Num[Tensor, "batch width"],
    ) -> Num[Tensor, "batch height width channels"]:
        """A view of each chosen image."""


@dataclass(frozen=True)
class Augmentation(Views):
    """Padding, a random crop of the original size, a random horizontal flip, and normalisation.

    An image has (2 · pad + 1)² views, one per crop, and twice as many with `flip`.
    """

    pad: ZeroTo1000
    pad_mode: Literal["reflect", "constant"]
    flip: bool
    mean: Sequence[float] | None = None
    std: Sequence[PositiveNumber] | None = None

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

    def stored(self, images: NDArray[Any]) -> NDArray[Any]:
        """Padded images."""
        return np.pad(images, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)), mode=self.pad_mode)

    def view(
        self,
        stored: Num[Tensor, "stored stored_height stored_width channels"],
        chosen: Int64[Tensor, " batch"],
        rows: Int64[Tensor, "batch height"],
        columns: Int64[Tensor, "batch width"],
    ) -> Num[Tensor, "batch height width channels"]:
        """See `Views`: one gather."""
        return stored[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True)
class ResizedCrop(Views):
    """A random part of the image, resized to the whole, and a random horizontal flip (Szegedy et al. 2015, §6).

    The part has at least `smallest` of the area and a ratio of width to height from 1/`ratio` to `ratio`, uniform in
    its logarithm. It is enlarged, so bilinear interpolation suffices. `crops` parts are drawn once, the same for all
    trainings; a view is one of them, flipped or not.
    """

    smallest: Share = 0.35
    ratio: PositiveNumber = 4 / 3
    flip: bool = True
    crops: UpTo1000 = 1000
    mean: Sequence[float] | None = None
    std: Sequence[PositiveNumber] | None = None

    @property
    def views(self) -> int:
        """See `Views`."""
        return self.crops * (2 if self.flip else 1)

    def tables(self, height: int, width: int) -> tuple[Float[Tensor, "views height"], Float[Tensor, "views width"]]:
        """Positions from -1 to 1, the image's edges."""
        parts = torch.from_numpy(np.repeat(self._parts(), 2 if self.flip else 1, axis=0))
        top, left, tall, wide = parts.unbind(1)

        def places(start: Tensor, extent: Tensor, count: int) -> Tensor:
            centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
            return 2 * (start[:, None] + extent[:, None] * centres) - 1

        rows, columns = places(top, tall, height), places(left, wide, width)
        if self.flip:
            columns[1::2] = columns[1::2].flip(1)
        return rows.float(), columns.float()

    def _parts(self) -> NDArray[np.float64]:
        """Top, left, height and width of each part, as shares of the image: those that fit into it."""
        generator, found = np.random.default_rng(stream(0, "resized crops")), np.empty((0, 4))
        limit = np.log(max(self.ratio, 1 / self.ratio))
        while len(found) < self.crops:
            area = generator.uniform(self.smallest, 1, self.crops)
            aspect = np.exp(generator.uniform(-limit, limit, self.crops))
            tall, wide = np.sqrt(area / aspect), np.sqrt(area * aspect)
            start = generator.uniform(size=(2, self.crops)) * (1 - np.stack([tall, wide]))
            parts = np.stack([*start, tall, wide], 1)
            found = np.concatenate([found, parts[(tall <= 1) & (wide <= 1)]])
        return found[: self.crops]

    def view(
        self,
        stored: Num[Tensor, "stored stored_height stored_width channels"],
        chosen: Int64[Tensor, " batch"],
        rows: Float[Tensor, "batch height"],
        columns: Float[Tensor, "batch width"],
    ) -> Float[Tensor, "batch height width channels"]:
        """See `Views`."""
        grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1)
        images = stored[chosen].permute(0, 3, 1, 2).float()
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)
