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


OPERATIONS = (
    "identity",
    "rotate",
    "shear x",
    "shear y",
    "move x",
    "move y",
    "brightness",
    "contrast",
    "posterise",
    "solarise",
)


@dataclass(frozen=True)
class Distortion:
    """Some of ten operations on each image, drawn at random, in the manner of RandAugment (Cubuk et al. 2020).

    With magnitude 1 they rotate by 30°, shear by 0.3, move by 45 % of the side, brighten or raise the contrast by 95 %,
    all in either direction, leave four bits of the values, or invert all values. An image's largest value stands for
    white, and what comes from outside is black.
    """

    operations: int = 2
    magnitude: float = 0.9

    def drawn(self, count: int, generator: torch.Generator) -> Int64[Tensor, "count operations"]:
        """For each image the numbers of its operations, counted from 1, with the sign of their directions."""
        shape = (count, self.operations)
        signs = 2 * torch.randint(2, shape, generator=generator) - 1
        return signs * torch.randint(1, len(OPERATIONS) + 1, shape, generator=generator)

    def __call__(
        self, images: Num[Tensor, "batch height width channels"], drawn: Int64[Tensor, "batch operations"]
    ) -> Float[Tensor, "batch height width channels"]:
        """The images after their operations, one after the other."""
        images = images.float()
        for each in drawn.unbind(1):
            images = self._coloured(self._moved(images, each), each)
        return images

    def _amount(self, drawn: Int64[Tensor, " batch"], name: str, largest: float) -> Float[Tensor, " batch"]:
        """Of one operation; 0 for images that have another one."""
        return torch.where(drawn.abs() == OPERATIONS.index(name) + 1, drawn.sign() * self.magnitude * largest, 0.0)

    def _moved(self, images: Tensor, drawn: Int64[Tensor, " batch"]) -> Tensor:
        angle = self._amount(drawn, "rotate", torch.pi / 6)
        across, down = (self._amount(drawn, f"shear {axis}", 0.3) for axis in "xy")
        right, below = (self._amount(drawn, f"move {axis}", 2 * 0.45) for axis in "xy")
        rows = [angle.cos(), across - angle.sin(), right], [down + angle.sin(), angle.cos(), below]
        places = torch.stack([torch.stack(row, 1) for row in rows], 1)
        pixels = images.permute(0, 3, 1, 2)
        grid = F.affine_grid(places, [*pixels.shape], align_corners=False)
        return F.grid_sample(pixels, grid, align_corners=False).permute(0, 2, 3, 1)

    def _coloured(self, images: Tensor, drawn: Int64[Tensor, " batch"]) -> Tensor:
        def each(values: Tensor) -> Tensor:
            return values[:, None, None, None]

        white, mean = images.amax((1, 2, 3), keepdim=True), images.mean((1, 2, 3), keepdim=True)
        images = images * (1 + each(self._amount(drawn, "brightness", 0.95)))
        images = mean + (images - mean) * (1 + each(self._amount(drawn, "contrast", 0.95)))
        images = images.clamp(min=torch.zeros_like(white), max=white)
        step = white.clamp(min=1e-6) / 2 ** (8 - 4 * self.magnitude)
        posterised = each(self._amount(drawn, "posterise", 1.0)) != 0
        images = torch.where(posterised, (images / step).floor() * step, images)
        solarised = (each(self._amount(drawn, "solarise", 1.0)) != 0) & (images >= white * (1 - self.magnitude))
        return torch.where(solarised, white - images, images)
