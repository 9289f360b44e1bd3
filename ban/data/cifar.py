"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from any of the forms in which they are distributed.

| form                 | checked by                                                                                   |
|----------------------|----------------------------------------------------------------------------------------------|
| the Python version   | the MD5 sums of its files, which torchvision knows: files that are pickled can run code      |
| the binary version   | the SHA-1 sums of its files, which are a hash of labels and pixels in their order            |
| Hugging Face's files | the same sums, after their images were put into the layout of the binary version             |
"""

import hashlib
import importlib.util
import itertools
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100

from ban.data import downloads
from ban.data.downloads import Mirror, damaged, locked, refuse_inner_folder, replace, say
from ban.data.images import ImageOptions, Images
from ban.data.labelled import Labelled
from ban.data.pictures import UnreadableImage, decode
from ban.errors import UserError

PIXELS = 3 * 32 * 32
LARGEST = 2**28
"""Bytes of a file in an archive that is read; the training images of CIFAR-100 are 155 MB."""
SPLITS = ("train", "test")


class Batch(NamedTuple):
    """A file of the binary version."""

    name: str
    sha1: str
    rows: int


class Published(NamedTuple):
    """A data set in the forms in which it is distributed."""

    title: str
    pickled: type[CIFAR10]
    """The Python version as torchvision knows it: its archive, folder, files and MD5 sums."""
    archive: str
    """Of the binary version."""
    folder: str
    """Of the binary version."""
    train: Sequence[Batch]
    test: Sequence[Batch]
    hub: str
    """Its name at Hugging Face, where it belongs to uoft-cs."""
    labels: Sequence[str]
    """Hugging Face's columns for the bytes before the pixels of a row of the binary version; the last is the class."""

    @property
    def row(self) -> int:
        """Bytes of an example in the binary version."""
        return len(self.labels) + PIXELS


# The SHA-1 sums are those of MXNet's `gluon.data.vision.datasets`. Computed from CIFAR-100's Python version, they are
# the same.
CIFAR_10 = Published(
    title="CIFAR-10",
    pickled=CIFAR10,
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    train=[
        Batch("data_batch_1.bin", "aadd24acce27caa71bf4b10992e9e7b2d74c2540", 10_000),
        Batch("data_batch_2.bin", "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795", 10_000),
        Batch("data_batch_3.bin", "1dd00a74ab1d17a6e7d73e185b69dbf31242f295", 10_000),
        Batch("data_batch_4.bin", "aab85764eb3584312d3c7f65fd2fd016e36a258e", 10_000),
        Batch("data_batch_5.bin", "26e2849e66a845b7f1e4614ae70f4889ae604628", 10_000),
    ],
    test=[Batch("test_batch.bin", "67eb016db431130d61cd03c7ad570b013799c88c", 10_000)],
    hub="cifar10",
    labels=["label"],
)
CIFAR_100 = Published(
    title="CIFAR-100",
    pickled=CIFAR100,
    archive="cifar-100-binary.tar.gz",
    folder="cifar-100-binary",
    train=[Batch("train.bin", "e207cd2e05b73b1393c74c7f5e7bea451d63e08e", 50_000)],
    test=[Batch("test.bin", "8fb6623e830365ff53cf14adec797474f5478006", 10_000)],
    hub="cifar100",
    labels=["coarse_label", "fine_label"],
)

Parts = tuple[Labelled, Labelled]
"""Training and test images."""


def cifar10(**options: Any) -> Images:
    """60,000 colour images of 32×32 in 10 classes, of which 10,000 are test images."""
    return _images(CIFAR_10, **options)


def cifar100(**options: Any) -> Images:
    """60,000 colour images of 32×32 in 100 classes, of which 10,000 are test images."""
    return _images(CIFAR_100, **options)


def fetch_cifar10(**options: Any) -> None:
    """Downloads CIFAR-10 if it is not there. `options`: those of `cifar10`."""
    _prepare(CIFAR_10, **options)


def fetch_cifar100(**options: Any) -> None:
    """Downloads CIFAR-100 if it is not there. `options`: those of `cifar100`."""
    _prepare(CIFAR_100, **options)


def _images(
    data: Published,
    *,
    checksum: str,
    mirrors: Sequence[str],
    minimum_speed: float = 0.0,
    data_dir: Path,
    download: bool,
    **options: Any,
) -> Images:
    if checksum != f"md5:{data.pickled.tgz_md5}":
        raise UserError(f"dataset.checksum is {checksum}, but {data.title} has md5:{data.pickled.tgz_md5}.")
    train, test = fetch(data, data_dir, mirrors, download, minimum_speed)
    return Images(train, test, ImageOptions(**options))


def _prepare(
    data: Published,
    *,
    mirrors: Sequence[str],
    minimum_speed: float = 0.0,
    data_dir: Path,
    download: bool,
    **options: Any,
) -> None:
    files = {
        data.pickled.base_folder: [name for name, _ in (*data.pickled.train_list, *data.pickled.test_list)],
        data.folder: [batch.name for batch in (*data.train, *data.test)],
    }
    if not any(all((data_dir / folder / name).exists() for name in names) for folder, names in files.items()):
        fetch(data, data_dir, mirrors, download, minimum_speed)


def fetch(
    data: Published, data_dir: Path, mirrors: Sequence[str], download: bool = True, minimum_speed: float = 0.0
) -> Parts:
    """Training and test images from `data_dir`, a cache of another program on this machine, or the first usable mirror.

    Everything is checked before it is used. What is not in a form that can be read at once is written to `data_dir`:
    an archive is unpacked, and Hugging Face's files become the binary version.

    Args:
        data: what is wanted.
        data_dir: the folder for data sets.
        mirrors: URLs of archives, or of Parquet files with `{split}` in place of train and test, in the order in which
            they are tried.
        download: whether to use `mirrors`.
        minimum_speed: kB/s, below which a mirror is left for the next one.

    Raises:
        UserError: the data are missing or damaged, and no mirror provided them. The message says which files to put
            where.
    """
    if parts := _read(data, data_dir):
        return parts
    refuse_inner_folder(data_dir, data.pickled.base_folder, data.pickled.train_list[0][0])
    with locked(data_dir / f"{data.pickled.filename}.lock", data.title):
        if parts := _read(data, data_dir):  # another process has downloaded it meanwhile
            return parts
        parts, failures = _found(data, data_dir)
        if parts is None and download:
            lacking, sources = _sources(data, data_dir, mirrors)
            failures += lacking + downloads.download(data.title, sources, minimum_speed)
            parts = _read(data, data_dir)
    if parts:
        return parts
    tried = "".join(f"\n  tried {failure}" for failure in failures)
    raise UserError(_advice(data, data_dir, mirrors) + tried + ("" if download else "\n  (machine.download is off)"))


def _advice(data: Published, data_dir: Path, mirrors: Sequence[str]) -> str:
    version = data.pickled
    files = _files(version)
    checksums = {f"{version.base_folder}/{name}": checksum for name, checksum in files.items()}
    if found := damaged(data_dir, {version.filename: version.tgz_md5, **checksums}):
        return f"{data.title} is damaged: replace {', '.join(found)}."
    archives = " or ".join(mirror for mirror in mirrors if "{split}" not in mirror)
    return (
        f"{data.title} is not in {data_dir}: put {version.filename} there (or {data.archive}, or {version.base_folder} "
        f"with {', '.join(files)}), or set machine.data_dir=DIR or BAN_DATA to a folder that contains it."
        + (f" It is at {archives}." if archives else "")
    )


# Files that can be read at once


def _read(data: Published, folder: Path) -> Parts | None:
    """The Python or the binary version in a folder; None: neither is there and right."""
    return _pickled(data.pickled, folder) or _binary(data, folder / data.folder)


def _pickled(version: type[CIFAR10], folder: Path) -> Parts | None:
    try:  # checks the files before it unpickles them
        splits = (version(folder, train=True), version(folder, train=False))
    except (RuntimeError, OSError):  # torchvision raises RuntimeError for missing or damaged files
        return None
    train, test = (Labelled(split.data, np.asarray(split.targets, dtype=np.int64)) for split in splits)
    return train, test


def _binary(data: Published, folder: Path) -> Parts | None:
    parts: list[Labelled] = []
    for batches in (data.train, data.test):
        paths = [folder / batch.name for batch in batches]
        if not all(os.access(path, os.R_OK) for path in paths):
            return None
        contents = [path.read_bytes() for path in paths]
        if [hashlib.sha1(content).hexdigest() for content in contents] != [batch.sha1 for batch in batches]:
            return None
        rows = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, data.row)
        images = rows[:, -PIXELS:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append(Labelled(images, rows[:, -PIXELS - 1].astype(np.int64)))
    return parts[0], parts[1]


# Files that are converted or unpacked first


class _Wrong(Exception):
    """Files are not those of the data set; the message says why."""


def _found(data: Published, data_dir: Path) -> tuple[Parts | None, list[str]]:
    """What is on this machine, in `data_dir` or where other programs keep it; and what could not be used."""
    failures: list[str] = []
    for folder in [data_dir, *_folders_of_others()]:
        if folder != data_dir and (parts := _read(data, folder)):
            return parts, failures
        for archive in (folder / data.pickled.filename, folder / data.archive):
            if os.path.isfile(archive):  # noqa: PTH113 - no error where a folder is closed
                if (problem := _unpack(data, archive, data_dir)) is None:
                    return _read(data, data_dir), failures
                failures.append(f"{archive}: {problem}")
    for files in _files_of_hugging_face(data, data_dir):
        if (problem := _convert(data, files, data_dir)) is None:
            say(f"{data.title}: made {data_dir / data.folder} from {files['train'][0].parent}")
            return _read(data, data_dir), failures
        failures.append(f"{files['train'][0].parent}: {problem}")
    return None, failures


def _folders_of_others() -> list[Path]:
    """Where people keep data sets for torchvision, which has no place of its own."""
    torch_home = os.environ.get("TORCH_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/torch"
    names = (torch_home, f"{torch_home}/datasets", "~/data", "~/datasets")
    return [Path(os.path.expanduser(name)) for name in names]  # noqa: PTH111 - as it is, where there is no home


def _files_of_hugging_face(data: Published, data_dir: Path) -> Iterator[Mapping[str, list[Path]]]:
    """Split → its files, of each place that has some: `data_dir`, the hub's cache, and that of `datasets`."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    prepared = os.environ.get("HF_DATASETS_CACHE") or f"{home}/datasets"
    places = [
        (f"{data_dir}/{data.hub}", "{}*.parquet"),
        *((place, "{}*.parquet") for place in sorted(glob(f"{hub}/datasets--*{data.hub}/snapshots/*"))),  # noqa: PTH207
        *((place, f"{data.hub}-{{}}*.arrow") for place in sorted(glob(f"{prepared}/*{data.hub}/*/*/*"))),  # noqa: PTH207
    ]
    for place, pattern in places:
        files = {split: sorted(Path(place).rglob(pattern.format(split))) for split in SPLITS}
        if all(files.values()):
            yield files


def _unpack(data: Published, archive: Path, data_dir: Path) -> str | None:
    """Writes the files of an archive of the Python or of the binary version; returns what is wrong with it.

    They are checked one by one, so an archive that somebody packed again is as good.
    """
    version, binary = data.pickled, {batch.name: batch.sha1 for batch in (*data.train, *data.test)}
    forms = [(version.base_folder, _files(version), "md5"), (data.folder, binary, "sha1")]
    try:
        contents = _members(archive, {name for _, sums, _ in forms for name in sums})
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        return f"it is damaged, or no archive ({error})"
    for folder, sums, algorithm in forms:
        if sums.keys() <= contents.keys():
            for name, expected in sums.items():
                if hashlib.new(algorithm, contents[name]).hexdigest() != expected:
                    return f"{name} in it is not that of {data.title}"
            for name in sums:
                replace(data_dir / folder / name, contents[name])
            return None
    return f"it does not have all files of {data.title}"


def _files(version: type[CIFAR10]) -> dict[str, str]:
    """The files of the Python version, with their MD5 sums."""
    meta = {version.meta["filename"]: version.meta["md5"]}
    return dict([*version.train_list, *version.test_list]) | meta


def _members(archive: Path, names: Set[str]) -> dict[str, bytes]:
    """What an archive has of the files with these names, in whichever folder, as far as they have possible sizes."""
    with tarfile.open(archive) as tar:
        usable = (member for member in tar if member.isfile() and member.size <= LARGEST)
        found = ((member, member.name.rpartition("/")[2]) for member in usable)
        return {name: file.read() for member, name in found if name in names and (file := tar.extractfile(member))}


def _convert(data: Published, files: Mapping[str, Sequence[Path]], data_dir: Path) -> str | None:
    """Writes the binary version with the images and labels of Parquet or Arrow files; returns what is wrong with them.

    Hugging Face has the training batches of CIFAR-10 in the order in which they are in an archive, so their hashes tell
    which is which.
    """
    if not _has_pyarrow():
        return NEEDS_PYARROW
    found: dict[str, bytes] = {}
    try:
        for split, batches in zip(SPLITS, (data.train, data.test), strict=True):
            rows = np.concatenate([*itertools.chain.from_iterable(_rows(data, path) for path in files[split])])
            if len(rows) != sum(batch.rows for batch in batches):
                raise _Wrong(f"it has {len(rows):,} images for {split}ing, not {sum(b.rows for b in batches):,}")
            sums = {batch.sha1 for batch in batches}
            contents = [each.tobytes() for each in np.split(rows, len(batches))]
            found |= {hashlib.sha1(content).hexdigest(): content for content in contents}
            if not sums <= found.keys():
                raise _Wrong(f"its images or labels for {split}ing are not those of {data.title}, in their order")
    except _Wrong as error:
        return str(error)
    for batch in (*data.train, *data.test):
        replace(data_dir / data.folder / batch.name, found[batch.sha1])
    return None


NEEDS_PYARROW = "Parquet and Arrow files need pyarrow: pip install 'born-again[parquet]'"


def _has_pyarrow() -> bool:
    return importlib.util.find_spec("pyarrow") is not None


def _rows(data: Published, path: Path) -> Iterator[NDArray[np.uint8]]:
    """The rows of a file of Hugging Face's in the layout of the binary version, `[rows, labels + pixels]`.

    Raises:
        _Wrong: it cannot be read, or has no such images.
    """
    from pyarrow import ArrowException, ipc, memory_map
    from pyarrow.parquet import ParquetFile

    try:
        if path.suffix == ".arrow":
            batches = ipc.open_stream(memory_map(f"{path}"))
            names = batches.schema.names
        else:
            file = ParquetFile(path)
            batches, names = file.iter_batches(1000), file.schema_arrow.names
        if missing := {"img", *data.labels} - {*names}:
            raise _Wrong(f"{path.name} has no column {min(missing)}")
        for batch in batches:
            rows = np.empty((batch.num_rows, data.row), np.uint8)
            for place, name in enumerate(data.labels):
                rows[:, place] = batch.column(name).to_numpy(zero_copy_only=False)
            for row, image in zip(rows, batch.column("img").to_pylist(), strict=True):
                pixels = decode(image["bytes"], None, 3)
                if pixels.shape != (32, 32, 3):
                    raise _Wrong(f"{path.name} has images of {pixels.shape[1]}×{pixels.shape[0]} pixels, not of 32×32")
                row[-PIXELS:] = pixels.transpose(2, 0, 1).ravel()
            yield rows
    except (ArrowException, OSError, UnreadableImage, TypeError, KeyError, ValueError) as error:
        raise _Wrong(f"{path.name} is damaged, or has no such images ({' '.join(str(error).split())})") from None


# Mirrors


def _sources(data: Published, data_dir: Path, mirrors: Sequence[str]) -> tuple[list[str], list[Mirror]]:
    """What can be downloaded, and why the other mirrors cannot be used."""
    failures: list[str] = []
    sources: list[Mirror] = []
    for mirror in mirrors:
        if "{split}" in mirror and not _has_pyarrow():
            failures.append(f"{mirror}: {NEEDS_PYARROW}")
        elif "{split}" in mirror:
            addresses = {f"{data.hub}-{split}.parquet": mirror.replace("{split}", split) for split in SPLITS}
            sources.append(Mirror(addresses, data_dir, partial(_accept_parquet, data, data_dir)))
        else:
            archive = data.archive if mirror.endswith(data.archive) else data.pickled.filename
            sources.append(Mirror({archive: mirror}, data_dir, partial(_accept_archive, data, data_dir / archive)))
    return failures, sources


def _accept_archive(data: Published, archive: Path, parts: Sequence[Path]) -> str | None:
    """Unpacks and keeps a downloaded archive."""
    problem = _unpack(data, parts[0], archive.parent)
    if problem is None:
        parts[0].replace(archive)
    return problem


def _accept_parquet(data: Published, data_dir: Path, parts: Sequence[Path]) -> str | None:
    """Converts downloaded Parquet files, which are not kept."""
    return _convert(data, {split: [part] for split, part in zip(SPLITS, parts, strict=True)}, data_dir)
