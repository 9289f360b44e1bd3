"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), through torchvision's classes and their checksums."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity, download_and_extract_archive, extract_archive

from ban.data.images import Images, Options
from ban.data.splits import Labelled
from ban.errors import UserError


def cifar10(**options: Any) -> Images:
    """60,000 images of 32×32 in 10 classes, 10,000 of them for testing."""
    return _cifar(CIFAR10, **options)


def cifar100(**options: Any) -> Images:
    """60,000 images of 32×32 in 100 classes, 10,000 of them for testing."""
    return _cifar(CIFAR100, **options)


def _cifar(
    source: type[CIFAR10], *, checksum: str, mirrors: Sequence[str], data_dir: Path, download: bool, **options: Any
) -> Images:
    if checksum != f"md5:{source.tgz_md5}":
        raise UserError(
            f"dataset.checksum is {checksum}, but torchvision's for {source.filename} is md5:{source.tgz_md5}."
        )
    train, test = (_labelled(split) for split in fetch(source, data_dir, mirrors if download else ()))
    return Images(train, test, Options(**options))


def _labelled(split: CIFAR10) -> Labelled:
    return Labelled(split.data, np.asarray(split.targets, dtype=np.int64))


def fetch(source: type[CIFAR10], data_dir: Path, mirrors: Sequence[str]) -> tuple[CIFAR10, CIFAR10]:
    """Training and test split: from the files that are there, or downloaded from the mirrors in turn.

    A partial download is never taken for a whole one, because every file is checked against torchvision's md5 sums.

    Raises:
        UserError: they are not there and no mirror gave them; the message says which files to put where.
    """
    if splits := _whole(source, data_dir):
        return splits
    failures = []
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / f"{source.filename}.lock", fallback_to_soft=False):
        archive = data_dir / source.filename
        if check_integrity(archive, source.tgz_md5):
            extract_archive(archive, data_dir)
        for url in mirrors:
            if splits := _whole(source, data_dir):  # another process was faster
                return splits
            try:
                download_and_extract_archive(url, data_dir, filename=source.filename, md5=source.tgz_md5)
            except (OSError, RuntimeError) as error:
                failures.append(f"{url}: {error}")
        if splits := _whole(source, data_dir):
            return splits
    tried = "".join(f"\n  tried {failure}" for failure in failures) or "\n  (machine.download is off)"
    files = ", ".join(name for name, _ in [*source.train_list, *source.test_list])
    raise UserError(
        f"{source.__name__} is not in {data_dir}: put {source.filename} there and unpack it, so that "
        f"{data_dir / source.base_folder} holds {files} and {source.meta['filename']} – or name the folder "
        f"that has it with machine.data_dir=DIR or BAN_DATA.{tried}"
    )


def _whole(source: type[CIFAR10], data_dir: Path) -> tuple[CIFAR10, CIFAR10] | None:
    try:
        return source(data_dir, train=True), source(data_dir, train=False)
    except RuntimeError:  # torchvision's word for missing or damaged files
        return None
