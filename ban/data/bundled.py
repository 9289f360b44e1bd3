"""Data sets that come with scikit-learn: real data without a download.

`data_dir` and `download` are not used. Training, validation and test examples are drawn from one pool.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ban.data.images import ImageOptions, Images
from ban.data.labelled import Labelled
from ban.data.tabular import Tabular, TabularOptions
from ban.errors import UserError

FILES = {"breast_cancer": ("breast_cancer.csv", 1), "digits": ("digits.csv.gz", 0), "wine": ("wine_data.csv", 1)}
"""Name → file in scikit-learn, and the lines before its first example. To import scikit-learn takes seconds."""


def digits(*, checksum: str, data_dir: Path, download: bool, **options: Any) -> Images:
    """1797 images of 8×8 in 17 grey values; `options` are those of `ImageOptions`.

    Raises:
        UserError: the installed scikit-learn's digits do not have this checksum.
    """
    inputs, labels = _read("digits")
    pool = _checked("digits", inputs.astype(np.uint8).reshape(-1, 8, 8, 1), labels, checksum)
    return Images(pool, None, ImageOptions(**options))


def digits_features(**options: Any) -> Tabular:
    """The same digits as 64 features: the number of ink pixels in each 4×4 block of the scanned image."""
    return _tabular("digits", **options)


def breast_cancer(**options: Any) -> Tabular:
    """569 tumours, malignant or benign: 30 measurements of cell nuclei (Street, Wolberg and Mangasarian 1993)."""
    return _tabular("breast_cancer", **options)


def wine(**options: Any) -> Tabular:
    """178 wines of three growers: 13 chemical measurements (Aeberhard and Forina 1991)."""
    return _tabular("wine", **options)


def _tabular(name: str, *, checksum: str, data_dir: Path, download: bool, **options: Any) -> Tabular:
    return Tabular(_checked(name, *_read(name), checksum), TabularOptions(**options))


def _read(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Inputs and labels as scikit-learn ships them."""
    (file, headings), package = FILES[name], find_spec("sklearn")
    places = package.submodule_search_locations if package else None
    path = Path(*(places or [""])[:1], "datasets", "data", file)
    try:
        table = np.loadtxt(path, delimiter=",", skiprows=headings)
    except OSError:
        raise UserError(f"scikit-learn has no {path}: install the version that this program asks for.") from None
    return table[:, :-1], table[:, -1].astype(np.int64)


def _checked(name: str, inputs: NDArray[Any], labels: NDArray[Any], checksum: str) -> Labelled:
    found = "sha256:" + hashlib.sha256(inputs.tobytes() + labels.tobytes()).hexdigest()
    if found != checksum:
        raise UserError(
            f"scikit-learn's data set {name} has the checksum {found}, not {checksum}: the installed version ships "
            "other data."
        )
    return Labelled(inputs, labels)
