"""Scikit-learn's handwritten digits: real data that are there without a download."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from ban.data.images import Images, Labelled, Options
from ban.errors import UserError


def digits(*, checksum: str, data_dir: Path, download: bool, **options: Any) -> Images:
    """1797 images of 8×8 in 17 grey values; training, validation and test images are drawn from the one pool.

    Embedded: nothing is looked for in `data_dir` or downloaded. `options` are those of `ban.data.images.Options`.

    Raises:
        UserError: this scikit-learn ships other digits than those the signature names.
    """
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]  # pyright: ignore[reportAttributeAccessIssue]
    labels = bunch.target.astype(np.int64)  # pyright: ignore[reportAttributeAccessIssue]
    found = "sha256:" + hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if found != checksum:
        raise UserError(
            f"scikit-learn's digits have the checksum {found}, not {checksum}: other data under the same name."
        )
    return Images(Labelled(images, labels), None, Options(**options))
