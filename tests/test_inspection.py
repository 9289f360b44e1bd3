"""Data of a user's own are looked at before they are used: converted where they mean one thing, or refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ban.data.augmentation import Augmentation
from ban.data.images import Images, Options
from ban.data.labelled import Labelled
from ban.data.tabular import Tabular, TabularOptions
from ban.errors import UserError

COMMON = {
    "classes": 3,
    "train_size": 30,
    "validation_size": 12,
    "test_size": 18,
    "split_seed": 0,
    "label_noise": 0.0,
    "batch_size": 8,
    "steps_per_epoch": None,
    "device": torch.device("cpu"),
}
LABELS = np.arange(60) % 3
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 5, 4, 1), dtype=np.uint8)
ROWS = np.random.default_rng(1).integers(0, 200, (60, 2))


def images(pixels: Any, labels: Any, test: Labelled | None = None) -> Images:
    shape = [3, 5, 4] if np.shape(pixels)[1:] in {(3, 5, 4), (5, 4, 3)} else [1, 5, 4]
    scale = Augmentation(pad=0, pad_mode="constant", flip=False, mean=[0.0] * shape[0], std=[255.0] * shape[0])
    return Images(Labelled(pixels, labels), test, Options(**COMMON, shape=shape, augmentation=scale))


def rows(values: Any, labels: Any) -> Tabular:
    return Tabular(Labelled(values, labels), TabularOptions(**COMMON, features=2))


def same(ours: Images | Tabular, reference: Images | Tabular) -> bool:
    """Whether all splits are equal, and all tensors that batches are made of."""
    arrays = zip(sum(map(tuple, ours.splits), ()), sum(map(tuple, reference.splits), ()), strict=True)
    batches = zip(ours.epoch((0,), 0), reference.epoch((0,), 0), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays) and all(
        torch.equal(one.views[0], other.views[0]) and torch.equal(one.targets, other.targets) for one, other in batches
    )


@pytest.mark.parametrize("make", [lambda labels: images(PIXELS, labels), lambda labels: rows(ROWS, labels)])
@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.uint8),
        LABELS.astype(np.float32),
        LABELS.astype(object),
        LABELS[:, None],
        LABELS.tolist(),
        np.eye(3)[LABELS],
        np.eye(3, dtype=bool)[LABELS],
        torch.from_numpy(LABELS),
    ],
    ids=["uint8", "float", "object", "column", "list", "one-hot", "one-hot truth values", "tensor"],
)
def test_labels_that_mean_one_thing_are_converted(make: Callable[[Any], Any], labels: Any) -> None:
    assert same(make(labels), make(LABELS))


COLOURED = np.random.default_rng(2).integers(0, 256, (60, 5, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("pixels", "reference"),
    [
        (PIXELS[..., 0], PIXELS),
        (PIXELS.transpose(0, 3, 1, 2), PIXELS),
        (COLOURED.transpose(0, 3, 1, 2), COLOURED),
        (PIXELS.astype(np.float64), PIXELS),
        (PIXELS.astype(np.int16), PIXELS),
        ((PIXELS / 255).astype(np.float32), PIXELS),
        ((PIXELS / 255).astype(np.float16), PIXELS),
        (torch.from_numpy(PIXELS), PIXELS),
    ],
    ids=["no channel", "channel in front", "channels in front", "float", "int", "0 to 1", "0 to 1, half", "tensor"],
)
def test_images_that_mean_one_thing_are_converted(pixels: Any, reference: Any) -> None:
    assert same(images(pixels, LABELS), images(reference, LABELS))


@pytest.mark.parametrize("values", [ROWS.astype(np.uint8), ROWS.astype(object), ROWS.tolist()])
def test_rows_that_mean_one_thing_are_converted(values: Any) -> None:
    """Unsigned test values below the training minimum must not wrap around."""
    assert same(rows(values, LABELS), rows(ROWS.astype(np.float64), LABELS))


def put(values: Any, place: tuple[int, ...], value: float) -> Any:
    changed = np.array(values, dtype=np.float64)
    changed[place] = value
    return changed


NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rows(ROWS, LABELS[:-1]), r"there are 60 rows, but the labels have the shape \[59\]"),
        (lambda: images(PIXELS, LABELS[:-1]), r"there are 60 images, but the labels have the shape \[59\]"),
        (lambda: rows(ROWS, put(LABELS, (7,), 1.5)), r"label 7 is 1\.5, but it must be the number of a class"),
        (lambda: rows(ROWS, put(LABELS, (7,), NAN)), "label 7 is nan"),
        (lambda: rows(ROWS, put(LABELS, (7,), -1)), r"label 7 is -1\.0"),
        (lambda: rows(ROWS, [f"class {label}" for label in LABELS]), "the labels are of the type <U7, but"),
        (
            lambda: rows(ROWS, put(np.eye(3)[LABELS], (4, 0), 0.5)),
            r"row 4 of the labels is \[0\.5 1\.  0\. \]: it must",
        ),
        (lambda: rows(ROWS, None), r"the labels have the shape \[\]"),
        (lambda: rows(ROWS, LABELS + 1), "the data have no examples of class 0"),
        (lambda: rows(put(ROWS, (5, 1), NAN), LABELS), "row 5, column 1 is nan, but it must be a finite number"),
        (lambda: rows(put(ROWS, (5, 1), np.inf), LABELS), "row 5, column 1 is inf"),
        (lambda: rows([["a", "b"]] * 60, LABELS), "the rows are of the type <U1"),
        (lambda: rows([[1, 2], [3]] * 30, LABELS), "the rows are no array of numbers"),
        (lambda: rows(ROWS[:, 0], LABELS), r"the rows have the shape \[60\], but it must be \[examples, features\]"),
        (lambda: images(PIXELS[:, :4], LABELS), r"dataset.shape is \[1, 5, 4\], so the images must have the shape"),
        (lambda: images(put(PIXELS, (3, 2, 1, 0), NAN), LABELS), "image 3, row 2, column 1, channel 0 is nan"),
        (lambda: images(put(PIXELS, (3, 2, 1, 0), 256), LABELS), "image 3, row 2, column 1, channel 0 is 256.0, but"),
        (lambda: images(put(PIXELS, (3, 2, 1, 0), -1), LABELS), "image 3, row 2, column 1, channel 0 is -1.0, but"),
        (lambda: images(put(PIXELS, (3, 2, 1, 0), 0.5), LABELS), "channel 0 is 0.5, but it must be a byte"),
        (lambda: images(np.sqrt(PIXELS / 255), LABELS), "but it must be a byte, or one divided by 255"),
        (lambda: images((PIXELS > 99) * 1.0, LABELS), "the images consist of 0 and 1 as float64, which may mean"),
        (lambda: images((PIXELS > 99).astype(np.uint8), LABELS), "0 to 1, which dataset.augmentation.std=.* multiply"),
        (lambda: images(PIXELS, LABELS, Labelled(PIXELS / 3, LABELS)), "test image 0, row 0, column 0, channel 0 is"),
        (lambda: images(PIXELS, LABELS, Labelled(PIXELS, LABELS[1:])), "there are 60 test images, but the test labels"),
    ],
)
def test_everything_else_is_refused_with_its_place(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
