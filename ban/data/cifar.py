"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), loaded and verified by torchvision."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity, download_and_extract_archive, extract_archive

from ban.data.downloads import damaged, refuse_inner_folder
from ban.data.images import ImageOptions, Images
from ban.data.labelled import Labelled
from ban.errors import UserError


def cifar10(**options: Any) -> Images:
    """60,000 colour images of 32×32 in 10 classes, of which 10,000 are test images."""
    return _cifar(CIFAR10, **options)


def cifar100(**options: Any) -> Images:
    """60,000 colour images of 32×32 in 100 classes, of which 10,000 are test images."""
    return _cifar(CIFAR100, **options)


def _cifar(
    source: type[CIFAR10], *, checksum: str, mirrors: Sequence[str], data_dir: Path, download: bool, **options: Any
) -> Images:
    if checksum != f"md5:{source.tgz_md5}":
        raise UserError(
            f"dataset.checksum is {checksum}, but torchvision expects md5:{source.tgz_md5} for {source.filename}."
        )
    train, test = (_labelled(split) for split in fetch(source, data_dir, mirrors if download else ()))
    return Images(train, test, ImageOptions(**options))


def _labelled(split: CIFAR10) -> Labelled:
    return Labelled(split.data, np.asarray(split.targets, dtype=np.int64))


def fetch(source: type[CIFAR10], data_dir: Path, mirrors: Sequence[str]) -> tuple[CIFAR10, CIFAR10]:
    """Training and test split, read from `data_dir` or downloaded from the first mirror that works.

    Every file is checked against torchvision's MD5 sum, so a partial download is never used.

    Raises:
        UserError: the files are missing or damaged, and no mirror provided them. The message says which files to put
            where.
    """
    if splits := _whole(source, data_dir):
        return splits
    refuse_inner_folder(data_dir, source.base_folder, source.train_list[0][0])
    try:
        splits, failures = _download(source, data_dir, mirrors)
    except OSError as error:
        raise UserError(f"{data_dir} cannot be written ({error.strerror}): choose another machine.data_dir.") from error
    if splits:
        return splits
    tried = "".join(f"\n  tried {failure}" for failure in failures) or "\n  (machine.download is off)"
    files = dict([*source.train_list, *source.test_list])
    files[source.meta["filename"]] = source.meta["md5"]
    checksums = {f"{source.base_folder}/{name}": checksum for name, checksum in files.items()}
    if found := damaged(data_dir, {source.filename: source.tgz_md5, **checksums}):
        raise UserError(f"{source.__name__} is damaged: replace {', '.join(found)}.{tried}")
    raise UserError(
        f"{source.__name__} is not in {data_dir}: put {source.filename} there and unpack it, so that "
        f"{data_dir / source.base_folder} contains {', '.join(files)}, or set machine.data_dir=DIR or BAN_DATA to the "
        f"folder that contains {source.base_folder}.{tried}"
    )


def _download(
    source: type[CIFAR10], data_dir: Path, mirrors: Sequence[str]
) -> tuple[tuple[CIFAR10, CIFAR10] | None, list[str]]:
    """The splits from the archive, or from the first mirror that works; and why the other mirrors did not."""
    failures: list[str] = []
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / f"{source.filename}.lock", fallback_to_soft=False):
        archive = data_dir / source.filename
        if check_integrity(archive, source.tgz_md5):
            extract_archive(archive, data_dir)
        for url in mirrors:
            if splits := _whole(source, data_dir):  # another process has downloaded it meanwhile
                return splits, failures
            try:
                download_and_extract_archive(url, data_dir, filename=source.filename, md5=source.tgz_md5)
            except (OSError, RuntimeError) as error:
                failures.append(f"{url}: {error}")
        return _whole(source, data_dir), failures


def _whole(source: type[CIFAR10], data_dir: Path) -> tuple[CIFAR10, CIFAR10] | None:
    try:
        return source(data_dir, train=True), source(data_dir, train=False)
    except RuntimeError:  # torchvision raises this for missing or damaged files
        return None
