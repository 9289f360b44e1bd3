"""The images of a folder, an archive of arrays, or Parquet files, with the name of each image's class.

They are listed at once, and read one after another. Does not import torch.
"""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from ban.data import inspection
from ban.data.labelled import Labelled
from ban.data.pictures import EXTENSIONS
from ban.errors import UserError

SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Split → names of its folder, or words in the names of its files."""
HIDDEN = (".", "__MACOSX")


class Picture(NamedTuple):
    """An image that is not decoded yet."""

    split: str
    label: int
    name: str
    """For messages: its file, with the row where there are several in one."""
    content: Path | bytes | np.ndarray[Any, Any]


@dataclass
class Source:
    """Images, with what is known before any is decoded."""

    class_names: Sequence[str]
    count: int
    pictures: Iterable[Picture]
    skipped: Mapping[str, int] = field(default_factory=dict[str, int])
    """Kind of file that was passed over → number."""


@contextmanager
def reading(path: str) -> Generator[None]:
    """Tells an error of the system as one of the source at `path`.

    Raises:
        UserError: such an error occurred.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or f"{error}"
        raise UserError(f"{error.filename or path} cannot be read: {reason[0].lower()}{reason[1:]}.") from error


def _is_of_the_system(error: Exception) -> bool:
    """Whether the system refused a file. Libraries raise an `OSError` without a number for content that is wrong."""
    return isinstance(error, OSError) and error.errno is not None


Facts = tuple[str, int, int]
"""Of a file: name, size in bytes and time of change."""


def files_of(kind: str, path: str) -> list[Facts]:
    """The files that a source consists of, without reading them.

    Raises:
        UserError: there is no such source.
        OSError: a file or folder cannot be read.
    """
    if kind == "folder":
        place = Path(path)
        return sorted(_facts(file, f"{file.relative_to(place)}") for _, _, file in _files(_listed(place)[0]))
    found = _matching(path) if kind == "parquet" else [_archive(Path(path))]
    return [_facts(file, file.name) for file in found]


def _facts(path: Path, name: str) -> Facts:
    found = path.stat()
    return name, found.st_size, found.st_mtime_ns


def split_of(name: str) -> str | None:
    """The split that the words of a file's name name; None: none, or several."""
    words = {*re.split(r"[^a-z]+", name.lower())}
    found = [split for split, names in SPLITS.items() if words & {*names}]
    return found[0] if len(found) == 1 else None


def check_classes(names: Sequence[str], per_split: Mapping[str, Counter[str]], where: str) -> None:
    """Check that there are two classes or more, and that each has training images.

    Raises:
        UserError: they are fewer, or a class of another split is unknown.
    """
    pool = next(iter(per_split))
    if not per_split[pool]:
        raise UserError(f"{where} has no images: {', '.join(sorted(EXTENSIONS))} are read.")
    if len(names) < 2:
        raise UserError(f"{where} has images of one class only ({names[0]}): put two classes or more there.")
    if empty := [name for name in names if not per_split[pool][name]]:
        others = [split for split, counts in per_split.items() if counts[empty[0]]]
        place = f"only in {others[0]}, not in {pool}" if others else "empty"
        raise UserError(f"{where}: the class {empty[0]} is {place}: add images of it to {pool}, or remove it.")


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their numbers: by value if all are whole numbers, otherwise alphabetically."""
    found = sorted(names)
    return sorted(found, key=int) if all(name.isdecimal() and name.isascii() for name in found) else found


# Folders


def folder(path: Path) -> Source:
    """`DIR/{train,val,test}/CLASS/…`, or `DIR/CLASS/…`, as torchvision's ImageFolder reads it.

    Raises:
        UserError: there is no such folder, or it is laid out in another way.
    """
    listed, skipped = _listed(path)
    names = in_order({name for classes in listed.values() for name in classes})
    counts = {split: Counter({name: len(files) for name, files in each.items()}) for split, each in listed.items()}
    check_classes(names, counts, f"{path}")
    numbers = {name: number for number, name in enumerate(names)}
    pictures = [Picture(split, numbers[name], f"{file}", file) for split, name, file in _files(listed)]
    return Source(names, len(pictures), pictures, skipped)


Listed = Mapping[str, Mapping[str, Sequence[Path]]]
"""Split → class → images."""


def _listed(path: Path) -> tuple[Listed, Mapping[str, int]]:
    """The images, and how many files of which kind were passed over."""
    if not path.exists():
        raise UserError(f"dataset.path={path} does not exist.")
    if not path.is_dir():
        raise UserError(f"dataset.path={path} is a file: name the folder that contains a folder for each class.")
    walk = _Walk()
    return {split: walk.classes(place) for split, place in _split_folders(path).items()}, walk.skipped


def _files(listed: Listed) -> list[tuple[str, str, Path]]:
    """Split, class and file of each image."""
    return [(split, name, file) for split, each in listed.items() for name, files in each.items() for file in files]


def _split_folders(path: Path) -> dict[str, Path]:
    """Split → its folder; `all` where there is one folder for each class only."""
    found: dict[str, Path] = {}
    for each in _entries(path):
        split = next((split for split, names in SPLITS.items() if each.name.lower() in names), None)
        if split and each.is_dir():
            if split in found:
                raise UserError(f"{path} has two folders for {split}: {found[split].name} and {each.name}.")
            found[split] = Path(each.path)
    if not found:
        return {"all": path}
    if "train" not in found:
        other = next(iter(found.values())).name
        raise UserError(f"{path} has a folder {other}, but none for training: name that one train.")
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    return {split: found[split] for split in SPLITS if split in found}


def _entries(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda each: each.name)


class _Walk:
    """Finds images, and counts what is passed over."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    def classes(self, place: Path) -> dict[str, list[Path]]:
        """Class → its images, of all folders below that of the class."""
        found: dict[str, list[Path]] = {}
        for each in _entries(place):
            if each.name.startswith(HIDDEN):
                self.skipped["hidden"] += 1
            elif each.is_dir():
                found[each.name] = [*self._images(Path(each.path), ())]
            else:
                self.skipped["outside the folders of classes"] += 1
        return found

    def _images(self, place: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
        status = place.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise UserError(f"{place} is a link to a folder that contains it: remove the link.")
        for each in _entries(place):
            path = Path(each.path)
            if each.name.startswith(HIDDEN):
                self.skipped["hidden"] += 1
            elif each.is_dir():
                yield from self._images(path, (*above, identity))
            elif path.suffix.lower() not in EXTENSIONS:
                self.skipped["no image"] += 1
            elif not path.is_file():
                raise UserError(f"{path} is a broken link, or no regular file: remove it.")
            else:
                yield path


# Arrays

KEYS = {
    "Keras": {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")},
    "MedMNIST": {
        "train": ("train_images", "train_labels"),
        "validation": ("val_images", "val_labels"),
        "test": ("test_images", "test_labels"),
    },
}
"""Convention → split → names of the arrays of images and labels in an archive."""


def arrays(path: Path) -> Source:
    """An archive of numpy's, with the names of Keras or of MedMNIST.

    Raises:
        UserError: it is no such archive, or has other arrays.
    """
    parts = {}
    for split, (images, labels) in _arrays(path).items():
        name = "" if split == "all" else f"{split} "
        shape = images.shape[1:] if images.ndim == 4 else (*images.shape[1:], 1)
        if images.ndim not in (3, 4) or shape[-1] not in (1, 3):
            raise UserError(
                f"{path}: the {name}images have the shape {[*images.shape]}, but it must be [examples, height, "
                "width], or [examples, height, width, channels] with 1 or 3 channels."
            )
        try:
            parts[split] = inspection.images(Labelled(images, labels), (shape[-1], *shape[:2]), name)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    names = [f"{number}" for number in range(1 + max(int(part.labels.max(initial=0)) for part in parts.values()))]
    counts = {split: Counter(f"{label}" for label in part.labels) for split, part in parts.items()}
    check_classes(names, counts, f"{path}")
    pictures = [
        Picture(split, int(label), f"{path}, {'' if split == 'all' else f'{split} '}image {number}", image)
        for split, part in parts.items()
        for number, (image, label) in enumerate(zip(part.inputs, part.labels, strict=True))
    ]
    return Source(names, len(pictures), pictures)


def _arrays(path: Path) -> dict[str, tuple[Any, Any]]:
    try:
        with np.load(_archive(path), allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{path} is a single array: save images and labels together with numpy.savez.")
            for splits in KEYS.values():
                if {*splits["train"]} <= {*archive.files}:
                    chosen = {split: keys for split, keys in splits.items() if {*keys} <= {*archive.files}}
                    if "test" not in chosen and "validation" in chosen:
                        chosen["test"] = chosen.pop("validation")
                    if "test" not in chosen:
                        chosen = {"all": chosen["train"]}
                    return {split: (archive[images], archive[labels]) for split, (images, labels) in chosen.items()}
            listed = " or ".join(" and ".join(splits["train"]) for splits in KEYS.values())
            raise UserError(f"{path} has the arrays {', '.join(archive.files)}, but {listed} are needed.")
    except (ValueError, EOFError, OSError, BadZipFile, MemoryError) as error:
        raise _refusal(path, error) from None


def _refusal(path: Path, error: Exception) -> Exception:
    if _is_of_the_system(error):
        return error
    if "allow_pickle" in str(error):
        return UserError(
            f"{path} contains pickled objects, which can run code when they are read: save arrays of numbers."
        )
    return UserError(f"{path} is damaged, or no archive of arrays ({str(error).rstrip('.')}).")


def _archive(path: Path) -> Path:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"dataset.path={path} {problem}: name an archive of arrays (.npz).")
    return path


# Parquet

ROWS = 256
"""Rows that are read from a Parquet file at a time."""


def parquet(pattern: str, image: str | None, label: str | None) -> Source:
    """Parquet files as Hugging Face writes them, of which one column holds encoded images, and one the labels.

    Raises:
        UserError: no file matches, or they have no such columns.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError("Parquet files need pyarrow: pip install 'born-again[parquet]'.") from None
    paths = _matching(pattern)
    try:
        return _parquet(paths, [ParquetFile(path) for path in paths], image, label)
    except (ArrowException, OSError) as error:
        if _is_of_the_system(error):
            raise
        raise UserError(f"dataset.path={pattern} is damaged, or no Parquet ({' '.join(str(error).split())}).") from None


def _matching(pattern: str) -> list[Path]:
    files = f"{Path(pattern) / '**/*.parquet'}" if Path(pattern).is_dir() else pattern
    names = sorted(glob.glob(files, recursive=True))  # noqa: PTH207 - of an absolute pattern too
    paths = [Path(name) for name in names if Path(name).is_file()]
    if not paths:
        raise UserError(f"dataset.path={pattern}: there is no such Parquet file.")
    return paths


def _parquet(paths: Sequence[Path], files: Sequence[Any], image: str | None, label: str | None) -> Source:
    folders = {name: split for split, names in SPLITS.items() for name in names}
    splits = [split_of(path.stem) or folders.get(path.parent.name) for path in paths]
    if "test" not in splits:
        splits = ["test" if split == "validation" else split for split in splits]
    if None in splits and any(splits):
        raise UserError(f"{paths[splits.index(None)]} has neither train nor test in its name, but other files have.")
    if any(splits) and not {"train", "test"} <= {*splits}:
        raise UserError(f"the names of {', '.join(path.name for path in paths[:5])} must include train and test.")
    columns = _image_column(files[0].schema_arrow, image), _label_column(files[0].schema_arrow, label)
    for path, file in zip(paths, files, strict=True):
        if missing := {*columns} - {*file.schema_arrow.names}:
            raise UserError(f"{path} has no column {min(missing)}: {', '.join(file.schema_arrow.names)}.")
    found = [file.read([columns[1]]).column(0).to_pylist() for file in files]
    values = {value for each in found for value in each}
    if None in values or -1 in values:
        raise UserError(f"some rows of {paths[0].parent} have no {columns[1]}: every image needs its class.")
    names, numbers = _classes(files[0].schema_arrow, columns[1], values)
    parts = [split or "all" for split in splits]
    counts: dict[str, Counter[str]] = {}
    for part, labels in zip(parts, found, strict=True):
        counts.setdefault(part, Counter()).update(names[numbers[value]] for value in labels)
    check_classes(
        names, dict(sorted(counts.items(), key=lambda each: [*SPLITS, "all"].index(each[0]))), f"{paths[0].parent}"
    )
    return Source(names, sum(map(len, found)), _encoded(parts, paths, files, columns, numbers))


def _encoded(
    splits: Sequence[str],
    paths: Sequence[Path],
    files: Sequence[Any],
    columns: tuple[str, str],
    numbers: Mapping[Any, int],
) -> Iterator[Picture]:
    from pyarrow import ArrowException

    for split, path, file in zip(splits, paths, files, strict=True):
        row = 0
        try:
            for batch in file.iter_batches(ROWS, columns=[*columns]):
                images, labels = (batch.column(name).to_pylist() for name in columns)
                for image, label in zip(images, labels, strict=True):
                    content = image["bytes"] if isinstance(image, dict) else image
                    yield Picture(split, numbers[label], f"{path}, row {row}", content or b"")
                    row += 1
        except (ArrowException, OSError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{path} is damaged behind row {row} ({reason}).") from None


def _image_column(schema: Any, name: str | None) -> str:
    import pyarrow.types as types

    def holds_images(field: Any) -> bool:
        kind = field.type
        return types.is_binary(kind) or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0)

    return _column(schema, name, "image", [each.name for each in schema if holds_images(each)])


def _label_column(schema: Any, name: str | None) -> str:
    import pyarrow.types as types

    kinds = (types.is_integer, types.is_string, types.is_large_string, types.is_dictionary)
    return _column(schema, name, "label", [each.name for each in schema if any(kind(each.type) for kind in kinds)])


def _column(schema: Any, name: str | None, what: str, suitable: Sequence[str]) -> str:
    """The column that is named, the one of this name, or the only suitable one."""
    listed = ", ".join(schema.names)
    if name is not None and name not in suitable:
        problem = "cannot be one" if name in schema.names else "is not there"
        raise UserError(f"dataset.{what}={name} {problem}: the columns are {listed}.")
    if name is None and what not in suitable and len(suitable) != 1:
        raise UserError(f"which column is the {what}? Set dataset.{what} to one of {', '.join(suitable) or listed}.")
    return name or (what if what in suitable else suitable[0])


def _classes(schema: Any, column: str, values: set[Any]) -> tuple[list[str], dict[Any, int]]:
    """The names of the classes, and value in the column → number of its class."""
    if all(isinstance(value, str) for value in values):
        names = in_order(values)
        return names, {name: number for number, name in enumerate(names)}
    names = _names_by_hugging_face(schema, column) or [f"{number}" for number in range(1 + max(values))]
    if not 0 <= min(values) <= max(values) < len(names):
        raise UserError(f"the column {column} has values from {min(values)} to {max(values)}: count classes from 0.")
    return names, {number: number for number in range(len(names))}


def _names_by_hugging_face(schema: Any, column: str) -> list[str]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [f"{name}" for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
