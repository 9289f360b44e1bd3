"""Images and rows of the user's, in files of common formats."""

from pathlib import Path
from typing import Any

import numpy as np

from ban.data.cache import Request, cached
from ban.data.images import ImageOptions, Images
from ban.data.labelled import Labelled
from ban.data.tabular import Tabular, TabularOptions
from ban.errors import UserError


def images(*, checksum: str, data_dir: Path, download: bool, **options: Any) -> Images:
    """The images that `ban.data.cache` finds at `path`; nothing is downloaded.

    Raises:
        UserError: they cannot be read, or are not those that the plan was made for.
    """
    fields = {name: options.pop(name) for name in Request._fields if name in options}
    found = cached(Request(**fields), data_dir)
    if found.about.checksum != checksum:
        raise UserError(f"{fields['path']} has changed since the command started: start it again.")
    parts = found.splits()
    found.verify(parts)
    pool = parts["train"] if "train" in parts else parts["all"]
    unequal = len({*np.bincount(pool.labels).tolist()}) > 1  # else the splits are those of CIFAR in this order
    own = ImageOptions(**options, proportional=unequal)
    return Images(pool, parts.get("test"), own, parts.get("validation"))


def rows(*, checksum: str, data_dir: Path, download: bool, **options: Any) -> Tabular:
    """The rows that `ban.data.rows` reads at `path`, with gaps filled by means; nothing is downloaded.

    Raises:
        UserError: they cannot be read, or are not those that the plan was made for.
    """
    from ban.data.rows import Request, rows  # imports pandas

    request = Request(**{name: options.pop(name) for name in Request._fields if name in options})
    found = rows(request._replace(drop=(*request.drop,)))
    if found.checksum != checksum:
        raise UserError(f"{request.path} has changed since the command started: start it again.")
    own = TabularOptions(**options, proportional=True)
    pool = Labelled(found.filled(own.train_size, own.split_seed), found.labels)
    return Tabular(pool, own)
