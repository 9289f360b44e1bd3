"""Scikit-learn's data sets: real data that are there without a download.

Nothing is looked for in `data_dir` or downloaded. Training, validation and test examples are drawn from the one pool.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from ban.data import images
from ban.data import tabular as tables
from ban.data.splits import Labelled
from ban.errors import UserError


def digits(*, checksum: str, data_dir: Path, download: bool, **options: Any) -> images.Images:
    """1797 images of 8×8 in 17 grey values; `options` are those of `ban.data.images.Options`.

    Raises:
        UserError: this scikit-learn ships other digits than those the signature names.
    """
    bunch = load_digits()
    pictures = bunch.images.astype(np.uint8)[..., None]  # pyright: ignore[reportAttributeAccessIssue]
    pool = _checked("digits", pictures, bunch.target, checksum)  # pyright: ignore[reportAttributeAccessIssue]
    return images.Images(pool, None, images.Options(**options))


def digits_features(**options: Any) -> tables.Tabular:
    """The same digits as 64 features: the number of inked pixels in each 4×4 block of a larger image."""
    return _table(load_digits, **options)


def breast_cancer(**options: Any) -> tables.Tabular:
    """569 tumours, malignant or benign, by 30 measurements of cell nuclei (Street, Wolberg and Mangasarian 1993)."""
    return _table(load_breast_cancer, **options)


def wine(**options: Any) -> tables.Tabular:
    """178 wines of three growers by 13 chemical measurements (Aeberhard and Forina 1991)."""
    return _table(load_wine, **options)


def _table(load: Callable[[], Any], *, checksum: str, data_dir: Path, download: bool, **options: Any) -> tables.Tabular:
    bunch = load()
    name = load.__name__.removeprefix("load_")
    return tables.Tabular(_checked(name, bunch.data, bunch.target, checksum), tables.Options(**options))


def _checked(name: str, inputs: NDArray[Any], labels: NDArray[Any], checksum: str) -> Labelled:
    labels = labels.astype(np.int64)
    found = "sha256:" + hashlib.sha256(inputs.tobytes() + labels.tobytes()).hexdigest()
    if found != checksum:
        raise UserError(
            f"scikit-learn's {name} have the checksum {found}, not {checksum}: other data under the same name."
        )
    return Labelled(inputs, labels)
