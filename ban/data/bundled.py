"""Data sets that come with scikit-learn: real data without a download.

`data_dir` and `download` are not used. Training, validation and test examples are drawn from one pool.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from ban.data.images import ImageOptions, Images
from ban.data.labelled import Labelled
from ban.data.tabular import Tabular, TabularOptions
from ban.errors import UserError


def digits(*, checksum: str, data_dir: Path, download: bool, **options: Any) -> Images:
    """1797 images of 8×8 in 17 grey values; `options` are those of `ImageOptions`.

    Raises:
        UserError: the installed scikit-learn's digits do not have this checksum.
    """
    bunch = load_digits()
    pictures = bunch.images.astype(np.uint8)[..., None]  # pyright: ignore[reportAttributeAccessIssue]
    pool = _checked("digits", pictures, bunch.target, checksum)  # pyright: ignore[reportAttributeAccessIssue]
    return Images(pool, None, ImageOptions(**options))


def digits_features(**options: Any) -> Tabular:
    """The same digits as 64 features: the number of ink pixels in each 4×4 block of the scanned image."""
    return _tabular(load_digits, **options)


def breast_cancer(**options: Any) -> Tabular:
    """569 tumours, malignant or benign: 30 measurements of cell nuclei (Street, Wolberg and Mangasarian 1993)."""
    return _tabular(load_breast_cancer, **options)


def wine(**options: Any) -> Tabular:
    """178 wines of three growers: 13 chemical measurements (Aeberhard and Forina 1991)."""
    return _tabular(load_wine, **options)


def _tabular(load: Callable[[], Any], *, checksum: str, data_dir: Path, download: bool, **options: Any) -> Tabular:
    bunch = load()
    name = load.__name__.removeprefix("load_")
    return Tabular(_checked(name, bunch.data, bunch.target, checksum), TabularOptions(**options))


def _checked(name: str, inputs: NDArray[Any], labels: NDArray[Any], checksum: str) -> Labelled:
    labels = labels.astype(np.int64)
    found = "sha256:" + hashlib.sha256(inputs.tobytes() + labels.tobytes()).hexdigest()
    if found != checksum:
        raise UserError(
            f"scikit-learn's data set {name} has the checksum {found}, not {checksum}: the installed version ships "
            "other data."
        )
    return Labelled(inputs, labels)
