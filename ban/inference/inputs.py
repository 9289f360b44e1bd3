"""What trained networks read: an image, a row or a text, and the tensor that is made of it, as in evaluations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ban.data import corpus, pictures
from ban.data.normalisation import FeatureScaling, PixelNormalisation
from ban.data.rows import Column, encode
from ban.data.tables import read, read_numbers
from ban.errors import UserError


@dataclass(frozen=True)
class ImageInputs:
    """Images; those of other sizes are resized on the shorter side, and their centre is cut out."""

    channels: int
    height: int
    width: int
    white: int
    """The largest value of a pixel in the data set."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalisation(self) -> nn.Module:
        """From pixels of 0 to `white` to what the network reads."""
        return PixelNormalisation(self.mean, self.std)

    def pixels(self, image: Any) -> NDArray[Any]:
        """The pixels of a file, the content of one, a Pillow image or an array, `[height, width, channels]`.

        An array has the data set's own values, from 0 to `white`, and its size.

        Raises:
            UserError: it is no image of a suitable size.
        """
        if isinstance(image, np.ndarray | Tensor):
            return self._array(np.asarray(image))
        size = self.height if self.height == self.width else None
        try:
            if isinstance(image, Image.Image):
                found = pictures.fit(pictures.upright(image), size, self.channels)
            else:
                content = image if isinstance(image, bytes) else Path(image)
                found = pictures.decode(content, size, self.channels)
        except pictures.UnreadableImage as error:
            raise UserError(f"{_name(image)} {error}.") from None
        if found.shape[:2] != (self.height, self.width):
            raise UserError(
                f"{_name(image)} has {found.shape[1]}×{found.shape[0]} pixels, not {self.width}×{self.height}."
            )
        return found if self.white == 255 else np.rint(found * (self.white / 255)).astype(np.uint8)

    def _array(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim == 2:
            array = array[..., None]
        expected = (self.height, self.width, self.channels)
        if array.shape != expected:
            raise UserError(f"an array has the shape {[*array.shape]}, not [height, width, channels] = {[*expected]}.")
        return array

    def __call__(self, image: Any) -> Float[Tensor, "channels height width"]:
        """One image as the network reads it; see `pixels`."""
        return self.batch([self.pixels(image)])[0]

    def batch(self, images: Sequence[NDArray[Any]]) -> Float[Tensor, "batch channels height width"]:
        """Several images' pixels as the network reads them, in channels-last memory."""
        return self.normalisation()(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))


@dataclass(frozen=True)
class RowInputs:
    """Rows of features."""

    low: tuple[float, ...]
    span: tuple[float, ...]
    columns: tuple[Column, ...] = field(default=(), hash=False)
    """Of the table that the rows come from, where it is the user's; empty: columns are features."""

    def normalisation(self) -> nn.Module:
        """From features in the units of the data set to what the network reads."""
        return FeatureScaling(self.low, self.span)

    def read(self, path: Path) -> NDArray[np.float64]:
        """The features of each row of a file: of a table like that of training, or of numbers alone.

        Raises:
            UserError: it cannot be read, or is not such a table.
        """
        if self.columns:
            return encode(
                self.columns, read(path, texts=[each["name"] for each in self.columns if each["kind"] == "category"])
            )
        return read_numbers(path, len(self.low))

    def __call__(self, row: Sequence[float] | NDArray[Any]) -> Float[Tensor, " features"]:
        """One row as the network reads it."""
        return self.batch(np.asarray(row, dtype=np.float64)[None])[0]

    def batch(self, rows: NDArray[np.float64]) -> Float[Tensor, "batch features"]:
        """Rows as the network reads them.

        Raises:
            UserError: they have another number of features, or a value is missing or infinite.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.low):
            raise UserError(f"the rows have the shape {[*rows.shape]}, not [rows, {len(self.low)} features].")
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0] + 1
            raise UserError(f"row {row} has no finite number in column {column}.")
        return self.normalisation()(torch.from_numpy(rows))


@dataclass(frozen=True)
class TextInputs:
    """Text as words between spaces; the words outside the vocabulary are `<unk>`."""

    vocabulary: corpus.Vocabulary

    def __call__(self, text: str) -> Int64[Tensor, "words 1"]:
        """The words of a text in order, from the `<eos>` on from which its first word is predicted.

        Raises:
            UserError: it has no words.
        """
        words = corpus.words(corpus.lines_of(text))
        if not words:
            raise UserError("the text has no words.")
        return torch.from_numpy(self.vocabulary.encode([corpus.END, *words]))[:, None]

    def unknown_percent(self, words: Int64[Tensor, "words 1"]) -> float:
        """The share of the words that are not in the vocabulary."""
        return 100 * float((words[1:] == self.vocabulary.index[corpus.UNKNOWN]).double().mean())


Inputs = ImageInputs | RowInputs | TextInputs


def inputs_of(
    dataset: Mapping[str, Any], preprocessing: Mapping[str, Any] | None, vocabulary: Sequence[str]
) -> Inputs | None:
    """The inputs of a network that was trained on a data set; None: what was fitted to the data is not stored.

    Args:
        dataset: its settings.
        preprocessing: what was fitted to the training examples.
        vocabulary: the words of a text.
    """
    if vocabulary:
        return TextInputs(corpus.Vocabulary.of(vocabulary))
    if preprocessing is None:  # of 0.2.0: known where the settings give it
        augmentation = {} if dataset.get("whitening") else dataset.get("augmentation", {})
        preprocessing = {name: augmentation[name] for name in ("mean", "std") if augmentation.get(name)}
    if {*preprocessing} == {"mean", "std"}:
        mean, std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
        channels, height, width = dataset["shape"]
        return ImageInputs(channels, height, width, dataset.get("white", 255), mean, std)
    if {"low", "span"} <= {*preprocessing}:
        return RowInputs(tuple(preprocessing["low"]), tuple(preprocessing["span"]), tuple(dataset.get("columns", ())))
    return None


def _name(image: Any) -> str:
    return f"{image}" if isinstance(image, str | Path) else "an image"
