"""The decoded images of a source in one file, made once and found again. Does not import torch."""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ban.cpus import cpus
from ban.data import sources
from ban.data.labelled import Gathered, Labelled, content_sha256, digest, order_by_content, sizes_of
from ban.data.pictures import Pixels, UnreadableImage, decode, fit
from ban.errors import UserError
from ban.wording import plural

FORMAT = 1
"""Raised when the same files would be decoded to other pixels, or stored in another way."""
IMAGES, ORDER, ABOUT = "images.npy", "order.npy", "about.json"
NAMED = 10
"""Unreadable images that a message names."""
ORDERED = ("train", "validation", "test", "all")


class Request(NamedTuple):
    """What is read, and how."""

    source: str
    """`folder`, `arrays` or `parquet`."""
    path: str
    size: int | None = None
    """Height and width to which images are resized; None: all have the same size."""
    channels: int = 3
    image: str | None = None
    """Column of the images in Parquet files; None: the only suitable one."""
    label: str | None = None
    """Column of the labels."""
    skip_unreadable: bool = False


@dataclass(frozen=True)
class About:
    """What is known of the decoded images."""

    class_names: Sequence[str]
    counts: Mapping[str, Sequence[int]]
    """Split → images of each class; the split `all` where the source has none."""
    shape: Sequence[int]
    """`[channels, height, width]`."""
    sha256: str
    """Of the pixels and labels of all splits, in whatever order and form they are stored."""
    duplicates: int
    """Test images that are also training images; of a source without splits, images that occur twice."""
    skipped: Mapping[str, int]
    """Kind of file that was passed over → number."""

    @property
    def checksum(self) -> str:
        """The identity of the data in signatures."""
        return f"sha256:{self.sha256}"

    def total(self, split: str) -> int:
        """The images of a split."""
        return sum(self.counts.get(split, ()))

    def sizes(self, train: int | None, validation: int | None, test: int | None) -> tuple[int, int, int]:
        """The sizes of the splits: as given, or all that there are; a fifth for testing where no split is for that.

        Raises:
            UserError: there are fewer images.
        """
        return sizes_of({split: self.total(split) for split in self.counts}, train, validation, test, "image")


@dataclass(frozen=True)
class Cached:
    """A source that is decoded."""

    folder: Path
    about: About

    def splits(self) -> dict[str, Labelled]:
        """The images of each split, in the order of their content. Only what is used is read.

        Raises:
            UserError: the files do not belong together, as after a disk was full.
        """
        try:
            images = np.load(self.folder / IMAGES, mmap_mode="r", allow_pickle=False)
            order, labels = np.load(self.folder / ORDER, allow_pickle=False)
            sizes = [sum(self.about.counts[split]) for split in self.about.counts]
            channels, height, width = self.about.shape
            if images.shape != (sum(sizes), height, width, channels) or not len(order) == len(labels) == sum(sizes):
                raise ValueError("shapes differ")
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{self.folder} is damaged ({error}): remove it, and it is made again.") from None
        ends = np.cumsum(sizes)[:-1]
        parts = zip(np.split(order, ends), np.split(labels, ends), strict=True)
        return {
            split: Labelled(Gathered(images, place), label)
            for split, (place, label) in zip(self.about.counts, parts, strict=True)
        }

    def verify(self, splits: Mapping[str, Labelled]) -> None:
        """Check the content of the files.

        Raises:
            UserError: they have changed since they were written.
        """
        digests = {split: _digests(part) for split, part in splits.items()}
        labels = {split: part.labels for split, part in splits.items()}
        if content_sha256(self.about.shape, len(self.about.class_names), digests, labels) != self.about.sha256:
            raise UserError(f"{self.folder} is damaged: remove it, and it is made again.")


def _digests(part: Labelled) -> list[bytes]:
    """Of each image, read a few at a time."""
    chunks = (np.asarray(part.inputs[start : start + 256]) for start in range(0, len(part.labels), 256))
    return [digest(image) for chunk in chunks for image in chunk]


def cached(request: Request, data_dir: Path) -> Cached:
    """The decoded images of a source, which are made if they are not there yet.

    Several processes may ask for the same at the same time; one makes them. They are there completely or not at all.

    Raises:
        UserError: the source cannot be read, or the cache cannot be written.
    """
    request = request._replace(path=f"{Path(request.path).expanduser()}")
    with sources.reading(request.path):
        files = sources.files_of(request.source, request.path)
    content = [FORMAT, *request._replace(path=""), files]
    key = hashlib.sha256(json.dumps(content).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    folder = data_dir / "cache" / key
    if found := _found(folder):
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock", fallback_to_soft=False, preserve_lock_file=True):
            return _found(folder) or _make(request, folder)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{folder.parent} cannot be written ({reason}): free some space, or set another machine.data_dir."
        ) from error


def _found(folder: Path) -> Cached | None:
    with suppress(OSError, ValueError, TypeError):
        return Cached(folder, About(**json.loads((folder / ABOUT).read_text(encoding="utf-8"))))
    return None


def _make(request: Request, folder: Path) -> Cached:
    with sources.reading(request.path):
        source = _open(request)
    shutil.rmtree(folder, ignore_errors=True)  # damaged
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        about = _Writer(request, source, unfinished).write()
        (unfinished / ABOUT).write_text(json.dumps(asdict(about)), encoding="utf-8")
        for name in (IMAGES, ORDER, ABOUT):
            with (unfinished / name).open("rb") as file:
                os.fsync(file.fileno())
        unfinished.chmod(0o777 & ~_umask())
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Cached(folder, about)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _open(request: Request) -> sources.Source:
    path = Path(request.path)
    if request.source == "folder":
        return sources.folder(path)
    if request.source == "arrays":
        return sources.arrays(path)
    return sources.parquet(f"{path}", request.image, request.label)


def _decode(picture: sources.Picture, request: Request) -> Pixels | str:
    """The image, or why it cannot be used."""
    content = picture.content
    try:
        if not isinstance(content, np.ndarray):
            return decode(content, request.size, request.channels)
        if request.size is None:
            return content
        image = Image.fromarray(content[..., 0] if content.shape[-1] == 1 else content)
        return fit(image, request.size, content.shape[-1])
    except UnreadableImage as error:
        return f"{picture.name} {error}"


class _Writer:
    """Decodes the images of a source, several at a time, into a file."""

    def __init__(self, request: Request, source: sources.Source, folder: Path) -> None:
        self.request, self.source, self.folder = request, source, folder
        self.images: np.memmap[Any, Any] | None = None
        self.splits: list[str] = []
        self.labels: list[int] = []
        self.digests: list[bytes] = []
        self.unreadable: list[str] = []

    def write(self) -> About:
        """Writes all images, and the order in which they are used."""
        for picture, pixels in self._decoded():
            if isinstance(pixels, str):
                self.unreadable.append(pixels)
            else:
                self._add(picture, pixels)
        self._refuse_unreadable()
        assert self.images is not None
        kept = self._shortened() if self.unreadable else self.images
        kept.flush()
        labels = np.array(self.labels, dtype=np.int64)
        places = {split: np.flatnonzero(np.array(self.splits) == split) for split in ORDERED if split in self.splits}
        orders = {
            split: place[order_by_content([self.digests[number] for number in place], labels[place])]
            for split, place in places.items()
        }
        order = np.concatenate([*orders.values()])
        np.save(self.folder / ORDER, [order, labels[order]])
        height, width, channels = kept.shape[1:]
        classes = len(self.source.class_names)
        return About(
            class_names=self.source.class_names,
            counts={split: np.bincount(labels[place], minlength=classes).tolist() for split, place in orders.items()},
            shape=[channels, height, width],
            sha256=content_sha256(
                [channels, height, width],
                classes,
                {split: [self.digests[number] for number in place] for split, place in orders.items()},
                {split: labels[place] for split, place in orders.items()},
            ),
            duplicates=self._duplicates(places),
            skipped={**self.source.skipped, **({"unreadable": len(self.unreadable)} if self.unreadable else {})},
        )

    def _decoded(self) -> Iterator[tuple[sources.Picture, Pixels | str]]:
        """Each picture with its pixels, in order, with a progress bar."""
        workers = cpus().count
        console = Console(stderr=True)
        columns = (TextColumn("decoding images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        waiting: list[tuple[sources.Picture, Future[Pixels | str]]] = []
        with (
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
            ThreadPoolExecutor(workers) as pool,
        ):
            task, pictures = progress.add_task("", total=self.source.count), iter(self.source.pictures)
            while True:
                with sources.reading(self.request.path):
                    new = [*islice(pictures, 16 * workers - len(waiting))]
                waiting += [(picture, pool.submit(_decode, picture, self.request)) for picture in new]
                if not waiting:
                    return
                picture, future = waiting.pop(0)
                yield picture, future.result()
                progress.advance(task)

    def _add(self, picture: sources.Picture, pixels: Pixels) -> None:
        if self.images is None:
            shape = (self.source.count, *pixels.shape)
            self._check_space(shape)
            self.images = np.lib.format.open_memmap(self.folder / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
            self.first = picture.name
        if pixels.shape != self.images.shape[1:]:
            sizes = [f"{width}×{height}" for height, width, _ in (self.images.shape[1:], pixels.shape)]
            raise UserError(
                f"{self.first} has {sizes[0]} pixels, but {picture.name} has {sizes[1]}: set dataset.size, for example "
                "to 64, and all are made that size."
            )
        self.images[len(self.labels)] = pixels
        self.splits.append(picture.split)
        self.labels.append(picture.label)
        self.digests.append(digest(pixels))

    def _check_space(self, shape: Sequence[int]) -> None:
        needed, free = int(np.prod(shape)), shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"the decoded images need {needed / 1e9:.1f} GB, but {self.folder.parent} has {free / 1e9:.1f} GB "
                "free: lower dataset.size, or choose another machine.data_dir."
            )

    def _refuse_unreadable(self) -> None:
        if not self.unreadable or (self.request.skip_unreadable and self.images is not None):
            return
        named = "".join(f"\n  {each}" for each in self.unreadable[:NAMED])
        more = f"\n  … and {len(self.unreadable) - NAMED} more" if len(self.unreadable) > NAMED else ""
        raise UserError(
            f"{plural(len(self.unreadable), 'image')} cannot be used: repair or remove them, or set "
            f"dataset.skip_unreadable=true.{named}{more}"
        )

    def _shortened(self) -> np.memmap[Any, Any]:
        """The file without the room for images that could not be read."""
        whole, path = self.images, self.folder / IMAGES
        assert whole is not None
        kept = np.lib.format.open_memmap(
            f"{path}.kept", mode="w+", dtype=np.uint8, shape=(len(self.labels), *whole.shape[1:])
        )
        kept[:] = whole[: len(kept)]
        Path(f"{path}.kept").rename(path)
        return kept

    def _duplicates(self, places: Mapping[str, NDArray[Any]]) -> int:
        of = {split: [self.digests[number] for number in place] for split, place in places.items()}
        if "all" in of:
            return sum(count - 1 for count in Counter(of["all"]).values())
        trained = {*of["train"]}
        return sum(each in trained for each in of["test"])


def measure(node: Mapping[str, Any], data_dir: Path) -> dict[str, Any]:
    """The settings of a data set that follow from its images; those that the user set stay.

    Raises:
        UserError: the images cannot be read.
    """
    if not node.get("path"):
        raise UserError(f"dataset={node['name']} needs dataset.path: name the {KINDS[node['source']]}.")
    about = cached(Request(**{name: node[name] for name in Request._fields if name in node}), data_dir).about
    train, validation, test = about.sizes(*(node.get(f"{split}_size") for split in ("train", "validation", "test")))
    return {
        "title": node.get("title") or _title(Path(node["path"])),
        "classes": len(about.class_names),
        "class_names": [*about.class_names],
        "class_counts": {split: [*counts] for split, counts in about.counts.items()},
        "shape": [*about.shape],
        "train_size": train,
        "validation_size": validation,
        "test_size": test,
        "checksum": about.checksum,
        "duplicates": about.duplicates,
        "skipped": dict(about.skipped),
    }


def _title(path: Path) -> str:
    """The name of the folder or file; of a pattern, that of the folder."""
    return path.parent.name if "*" in path.name else path.stem if path.suffix == ".npz" else path.name


KINDS = {"folder": "folder of images", "arrays": "archive of arrays (.npz)", "parquet": "Parquet files"}
"""Source → what its path is."""
