"""Pictures of the test images that a student and its teacher classify differently."""

import base64
import functools
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from ban.errors import UserError
from ban.metrics import Predictions
from ban.report.page.predictions import latest_against_teacher
from ban.report.results import Results
from ban.report.tables import Table
from ban.settings.construct import build, foreign_target
from ban.settings.datasets import AnyDataset, Dataset, ImageDataset

SHOWN = 12
"""Of each kind."""
LARGEST = 64
"""Height and width of a picture, at most, in pixels."""


class Example(NamedTuple):
    """A test image and what was said of it."""

    picture: str
    """A PNG as a data URL."""
    true: str
    """The name of its class."""
    teacher: str
    """The class that the teacher names, and its probability."""
    student: str


class Examples(NamedTuple):
    """Test images of one kind."""

    title: str
    examples: list[Example]


def changed(table: Table, results: Results, data_dir: Path) -> list[Examples]:
    """What the latest generation learned and forgot, if the images of its data set are on this machine.

    Of the first repetition; those first whose true class's probability changed most.
    """
    pairs = latest_against_teacher(table, results) if table.metric == "error_percent" else []
    if not pairs:
        return []
    heading, signature, student, teacher = pairs[0]
    dataset = results.store.description(signature)["dataset"]
    images = _test_images(json.dumps(dataset), data_dir)
    if images is None or len(images) != len(student["targets"]):
        return []
    names = dataset.get("class_names") or [*map(str, range(dataset["classes"]))]
    targets = student["targets"]
    right, before = (each["log_probabilities"].argmax(-1) == targets for each in (student, teacher))
    moved = np.abs(_of_targets(student) - _of_targets(teacher))
    seed = results.by_signature[signature]["seed"]
    kinds = {f"{heading} is right, its teacher is not": right & ~before}
    kinds |= {f"the teacher is right, {heading} is not": before & ~right}
    found: list[Examples] = []
    for title, chosen in kinds.items():
        numbers = np.flatnonzero(chosen)
        shown = numbers[np.argsort(-moved[numbers], kind="stable")][:SHOWN]
        pictures = [
            Example(
                _picture(np.asarray(images[n : n + 1])[0], dataset.get("white", 255)),
                names[targets[n]],
                _said(teacher, n, names),
                _said(student, n, names),
            )
            for n in map(int, shown)
        ]
        if pictures:
            found.append(Examples(f"Seed {seed}, {title}: {len(shown)} of {len(numbers)} test images", pictures))
    return found


def _of_targets(predictions: Predictions) -> NDArray[np.float32]:
    return np.exp(np.take_along_axis(predictions["log_probabilities"], predictions["targets"][:, None], -1)[:, 0])


def _said(predictions: Predictions, number: int, names: list[str]) -> str:
    found = predictions["log_probabilities"][number]
    return f"{names[int(found.argmax())]} {100 * float(np.exp(found.max())):.0f}\u00a0%"


def _picture(pixels: NDArray[np.uint8], white: int) -> str:
    """`white` is the largest value that a pixel can have."""
    scaled = (pixels.astype(np.float32) * (255 / white)).round().astype(np.uint8)
    image = Image.fromarray(scaled.squeeze(-1) if scaled.shape[-1] == 1 else scaled)
    image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@functools.cache
def _test_images(dataset: str, data_dir: Path) -> NDArray[np.uint8] | None:
    """In bytes `[examples, height, width, channels]`; None: they are no images, or not on this machine.

    No code but that of this package is run, and nothing is downloaded.
    """
    node: dict[str, Any] = json.loads(dataset) | {"whitening": None, "munge": None}
    try:
        if foreign_target(node, ["ban.data"]):
            return None
        adapter: TypeAdapter[Dataset] = TypeAdapter(AnyDataset)
        settings = adapter.validate_python(node)
        return _read(settings.constructor_arguments, data_dir) if isinstance(settings, ImageDataset) else None
    except (ValidationError, UserError):  # of an earlier version, or data that are not here or have changed
        return None


def _read(arguments: Mapping[str, Any], data_dir: Path) -> NDArray[np.uint8]:
    import torch

    given = {"data_dir": data_dir, "download": False, "device": torch.device("cpu")}
    data = build(arguments, **given, batch_size=1, steps_per_epoch=1)
    return data.splits.test.inputs
