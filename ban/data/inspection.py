"""A look at labelled examples before they are used: type, shape, range, and that every number is finite.

What has one meaning only is converted, and everything else is refused with its place, counted from 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ban.data.labelled import Labelled
from ban.errors import UserError

NUMBERS = "biuf"
"""The kinds of numpy's types that are numbers: truth values, integers, floats."""
ROUNDING = 1e-3
"""How far from a byte a byte may be that was divided by 255 in half precision or better, and multiplied again."""
DARK = 0.1
"""The range of pixels, in standard deviations, below which normalisation must have been meant for other images."""


def images(part: Labelled, shape: Sequence[int], name: str = "") -> Labelled:
    """Images as bytes `[examples, height, width, channels]`, and their labels.

    Converted: channels in front; no axis for a single channel; numbers from 0 to 255, or from 0 to 1 in steps of 1/255,
    of any type.

    Args:
        part: what a data set's function read.
        shape: `[channels, height, width]`, as the settings say.
        name: of the part in messages, with a space at its end.

    Raises:
        UserError: the images or the labels are something else.
    """
    inputs, labels = part
    pixels = _in_bytes(_channels_last(_numbers(inputs, f"{name}image"), shape, name), name)
    return Labelled(pixels, _labels(labels, len(pixels), name, "images"))


def rows(part: Labelled, features: int) -> Labelled:
    """Rows of numbers `[examples, features]`, and their labels.

    Raises:
        UserError: the rows or the labels are something else.
    """
    inputs, labels = part
    found = _numbers(inputs, "row")
    if found.ndim == 1 and features == 1:
        found = found[:, None]
    if found.ndim != 2:
        raise UserError(f"the rows have the shape {[*found.shape]}, but it must be [examples, features].")
    if found.shape[1] != features:
        raise UserError(f"dataset.features is {features}, but the rows have {found.shape[1]}.")
    _refuse(~np.isfinite(found), found, "row", "a finite number: fill the gap, or leave the row out")
    if found.dtype.kind != "f":  # differences of unsigned integers would wrap around
        found = found.astype(np.float64)
    return Labelled(found, _labels(labels, len(found), "", "rows"))


def check_contrast(pixels: NDArray[np.uint8], std: Sequence[float]) -> None:
    """Check that images are as bright as the normalisation expects.

    Raises:
        UserError: all pixels are nearly equal after it, as when images from 0 to 1 are normalised like bytes.
    """
    low, high = int(pixels.min()), int(pixels.max())
    if 0 < high - low < DARK * min(std):
        raise UserError(
            f"the images' values are {low} to {high}, which dataset.augmentation.std={[*std]} makes nearly equal: "
            "multiply the images, so that they fill 0 to 255, or set mean and std for these values."
        )


def _numbers(values: Any, name: str) -> NDArray[Any]:
    try:
        found = np.asarray(values)
        if found.dtype.kind == "O":
            found = found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"the {name}s are no array of numbers: {' '.join(str(error).split()).rstrip('.')}.") from None
    if found.dtype.kind not in NUMBERS:
        raise UserError(f"the {name}s are of the type {found.dtype}, but they must be numbers.")
    return found


def _refuse(wrong: NDArray[np.bool_], values: NDArray[Any], name: str, right: str) -> None:
    """Names the first wrong value, with its place on each axis."""
    if not wrong.any():
        return
    place = tuple(int(index) for index in np.unravel_index(int(wrong.argmax()), wrong.shape))
    axes = {2: (name, "column"), 4: (name, "row", "column", "channel")}.get(len(place), (name,))
    where = ", ".join(f"{axis} {index}" for axis, index in zip(axes, place, strict=True))
    raise UserError(f"{where} is {values[place]}, but it must be {right}.")


def _channels_last(pixels: NDArray[Any], shape: Sequence[int], name: str) -> NDArray[Any]:
    channels, height, width = shape
    last = (height, width, channels)
    if channels == 1 and pixels.shape[1:] == (height, width):
        pixels = pixels[..., None]
    if pixels.shape[1:] == (*shape,) != last:
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.shape[1:] != last:
        raise UserError(
            f"dataset.shape is {[*shape]}, so the {name}images must have the shape [examples, {height}, {width}, "
            f"{channels}], but it is {[*pixels.shape]}."
        )
    return pixels


def _in_bytes(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    name = f"{name}image"
    _refuse(~np.isfinite(pixels), pixels, name, "a finite number")
    _refuse((pixels < 0) | (pixels > 255), pixels, name, "from 0 to 255: images are bytes, which `ban` normalises")
    whole, unit = np.rint(pixels), pixels.max(initial=0) <= 1
    if unit and (whole == pixels).all():
        raise UserError(
            f"the {name}s consist of 0 and 1 as {pixels.dtype}, which may mean bytes or black and white: make them "
            "bytes with .astype('uint8'), after a multiplication by 255 for black and white."
        )
    scaled = 255.0 * pixels if unit else pixels
    whole = np.rint(scaled)
    right = "a byte, or one divided by 255: round with (255 * images).round().astype('uint8') if they are from 0 to 1"
    _refuse(np.abs(scaled - whole) > (ROUNDING if unit else 0), pixels, name, right)
    return whole.astype(np.uint8)


def _labels(values: Any, count: int, name: str, examples: str) -> NDArray[np.int64]:
    """Class numbers `[examples]`, also from one column, one-hot rows, or whole numbers of another type."""
    found = _numbers(values, f"{name}label")
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    elif found.ndim == 2:
        single = ((found == 0) | (found == 1)).all(1) & (found.sum(1) == 1)
        if not single.all():
            row = int((~single).argmax())
            raise UserError(f"row {row} of the {name}labels is {found[row]}: it must be one class, or one-hot.")
        found = found.argmax(1)
    if found.shape != (count,):
        raise UserError(f"there are {count} {name}{examples}, but the {name}labels have the shape {[*found.shape]}.")
    wrong = ~np.isfinite(found) | (found != np.rint(found)) | (found < 0)
    _refuse(wrong, found, f"{name}label", "the number of a class, which are counted from 0")
    return found.astype(np.int64)
