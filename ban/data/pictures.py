"""One image from a file, as a person sees it. Does not import torch."""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
SMALLEST = 4
"""Pixels of the shorter side, below which a file is a placeholder and no image."""
MODES = {1: "L", 3: "RGB"}
"""Number of channels → Pillow's name for such images."""

Pixels = NDArray[np.uint8]


class UnreadableImage(Exception):
    """The file is no image that can be used; the message says why."""


def decode(content: bytes | Path, size: int | None, channels: int) -> Pixels:
    """The image as bytes `[height, width, channels]`.

    Rotated as its EXIF data say; transparent pixels on white; 16 bits a pixel reduced to 8; of an animation the first
    frame.

    Args:
        content: a file, or what is in one.
        size: height and width of the result; None: those of the image.
        channels: 3, or 1 for grey values.

    Raises:
        UnreadableImage: the file cannot be read, is no image or a damaged one, or is too small or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of metadata that it cannot read
            with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
                return fit(upright(image), size, channels)
    except UnidentifiedImageError:
        raise UnreadableImage("is no image of a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, TypeError, IndexError, KeyError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UnreadableImage(f"cannot be decoded ({reason})") from None  # whatever Pillow raises for damaged files


def fit(image: Image.Image, size: int | None, channels: int) -> Pixels:
    """The image in 8 bits, without transparency; resized to `size` on its shorter side, and its centre cut out.

    Raises:
        UnreadableImage: it is too small.
    """
    if min(image.size) < SMALLEST:
        raise UnreadableImage(f"has only {image.width}×{image.height} pixels")
    image = _opaque(_in_eight_bits(image)).convert(MODES[channels])
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)  # Pillow's filters antialias
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], channels)


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say."""
    image.load()
    return ImageOps.exif_transpose(image)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Images of 16 bits a pixel in 8 bits; others as they are."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise UnreadableImage("has values outside 0 to 65535")
    if image.mode == "F":
        scale = 255.0 if values.max() <= 1 else 1.0 if values.max() <= 255 else 255 / 65535
    else:
        scale = 255 / 65535
    return Image.fromarray(np.rint(values * scale).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """The image on white, where it is transparent."""
    if not image.has_transparency_data:
        return image
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
