"""Images in the shape of a data set that would have to be downloaded: speed does not depend on what they show."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ban.data.images import ImageOptions, Images
from ban.data.labelled import Labelled
from ban.settings.datasets import ImageDataset
from ban.settings.schema import Settings

TRAIN, TEST = 10_000, 1_000
"""The most images of a split: enough for an epoch that is longer than a measurement."""
CONTRAST = 24.0
"""Standard deviation of the pattern of a class and of the noise on it, in units of the stored bytes."""


def without_download(settings: Settings) -> Settings:
    """The settings with such images in place of those that come from the network; others stay as they are."""
    dataset = settings.dataset
    if not isinstance(dataset, ImageDataset) or not dataset.mirrors:
        return settings
    changes = {
        "_target_": f"{images.__module__}.{images.__name__}",
        "mirrors": None,
        "minimum_speed": None,
        "train_size": min(dataset.train_size, TRAIN),
        "validation_size": min(dataset.validation_size, TEST),
        "test_size": min(dataset.test_size, TEST),
    }
    return replace(settings, dataset=dataset.with_changes(changes))


def images(*, checksum: str | None, data_dir: Path, download: bool, **options: Any) -> Images:
    """Images of one random pattern for each class, with noise, so that they can be learned.

    `options` are those of `ImageOptions`; the other arguments are not used.
    """
    chosen = ImageOptions(**options)
    channels, height, width = chosen.shape
    random = np.random.default_rng(chosen.split_seed)
    count = chosen.train_size + chosen.validation_size + chosen.test_size
    labels = random.permutation(count) % chosen.classes
    patterns = random.normal(128, CONTRAST, (chosen.classes, height, width, channels)).astype(np.float32)
    pixels = np.empty((count, height, width, channels), np.uint8)
    for place, label in enumerate(labels):
        noise = random.standard_normal((height, width, channels), np.float32)
        pixels[place] = np.clip(patterns[label] + np.float32(CONTRAST) * noise, 0, 255)
    return Images(Labelled(pixels, labels), None, chosen)
