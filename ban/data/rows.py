"""Labelled rows of the user's in one file, as features. Does not import torch.

How a column becomes features is described by plain data, so that another file can be encoded in the same way:
`{"name": …, "kind": "number"}`, with `mean` for gaps, or `{"name": …, "kind": "category", "values": […]}`, with
`may_be_missing: true`. A number is one feature. A category is one feature for each of its values: 1 for the value that
a row has, otherwise 0; all are 0 for a gap, which is a category of its own.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pandas has no complete types.

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ban.data.labelled import content_sha256, digest, order_by_content, proportional_order, sizes_of
from ban.data.sources import in_order
from ban.data.tables import NAMELESS, NUMBER, distinct, header, is_number, read
from ban.errors import UserError
from ban.wording import as_list, plural

Column = Mapping[str, Any]
"""How one column is encoded."""
CLASSES, VALUES = 1000, 1000
"""The most classes, and the most values of a category."""
FEW = 20
"""A column with as many different texts may have another one in most rows."""
DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?|\d{1,2}([./-])\d{1,2}\2\d{2}(\d\d)?")
LISTED = 10
"""Columns that a message names."""


class Request(NamedTuple):
    """What is read, and how."""

    path: str
    target: str
    drop: tuple[str, ...] = ()
    missing: str | None = None
    """`mean`: gaps are filled; None: they are refused."""


class Rows(NamedTuple):
    """Rows in the order of their content, and what is known of them."""

    inputs: NDArray[np.float64]
    """`[rows, features]`. A gap among numbers is NaN."""
    labels: NDArray[np.int64]
    digests: Sequence[bytes]
    class_names: Sequence[str]
    columns: Sequence[Column]
    """With NaN for each mean."""
    left_out: Mapping[str, str]
    """Column → why it is left out: it is constant, or has row numbers under no name."""
    gaps: Mapping[str, int]
    """Column → missing values."""
    numbered: Sequence[str]
    """Columns that seem to have row numbers."""
    mixed: Mapping[str, str]
    """Column of texts that are mostly numbers → one that is not."""

    @property
    def checksum(self) -> str:
        """The identity of the data in signatures. The NaN in it mean that gaps are filled with means."""
        shape, classes = [self.inputs.shape[1]], len(self.class_names)
        return f"sha256:{content_sha256(shape, classes, {'all': self.digests}, {'all': self.labels})}"

    def with_means(self, train_size: int, split_seed: int) -> list[Column]:
        """How columns are encoded, with the means of the training rows."""
        train = np.sort(proportional_order(self.labels, split_seed)[:train_size])
        found, place = list[Column](), 0
        for column in self.columns:
            if "mean" in column:
                known = self.inputs[train, place]
                known = known[~np.isnan(known)]
                if not len(known):
                    raise UserError(f"the column {column['name']} has no values in the training rows: {_drop(column)}.")
                column = {**column, "mean": float(known.mean())}
            found.append(column)
            place += _width(column)
        return found

    def filled(self, train_size: int, split_seed: int) -> NDArray[np.float64]:
        """The rows with the means of the training rows in their gaps."""
        means = [[column.get("mean", 0.0)] * _width(column) for column in self.with_means(train_size, split_seed)]
        return np.where(np.isnan(self.inputs), np.concatenate(means), self.inputs)


def rows(request: Request) -> Rows:
    """The rows of a file.

    Raises:
        UserError: it cannot be read, or is not what can be trained on.
    """
    path = _place(request.path)
    table = read(path, request.drop, [request.target])
    _check_choice(path, table, request)
    labels, class_names = _classes(table.pop(request.target), path)
    columns, remarks = _Description(path, request).of(table)
    inputs = encode(columns, table)
    digests = [digest(row) for row in inputs]
    order = order_by_content(digests, labels)
    return Rows(inputs[order], labels[order], [digests[row] for row in order], class_names, columns, *remarks)


def _place(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"dataset.path={path} names the home folder of an unknown user.") from None


def encode(columns: Sequence[Column], table: pd.DataFrame) -> NDArray[np.float64]:
    """The features of each row, `[rows, features]`.

    Args:
        columns: how columns are encoded, in the order of the features.
        table: as `ban.data.tables.read` returns it, best with the names of categories as `texts`. Columns that are not
            described do not matter.

    Raises:
        UserError: a column is missing, or has a value that its encoding has no place for.
    """
    given = {str(name): values for name, values in table.items()}
    found, place = np.zeros((len(table), sum(map(_width, columns)))), 0
    for column in columns:
        name = column["name"]
        if name not in given:
            raise UserError(f"there is no column {name}: {_nearest(name, given)}")
        if column["kind"] == "number":
            found[:, place] = _numbers(column, given[name])
        else:
            codes = _codes(column, given[name])
            chosen = np.flatnonzero(codes >= 0)
            found[chosen, place + codes[chosen]] = 1.0
        place += _width(column)
    return found


def _width(column: Column) -> int:
    return 1 if column["kind"] == "number" else len(column["values"])


def _numbers(column: Column, values: pd.Series) -> NDArray[np.float64]:
    name = column["name"]
    if not is_number(values):
        codes, names = distinct(values)
        wrong = [number for number, text in enumerate(names) if not NUMBER.fullmatch(text)]
        if wrong:
            row = int(np.isin(codes, wrong).argmax())
            raise UserError(f"the column {name} must have numbers, but row {row + 1} has {names[codes[row]]!r}.")
        values = pd.Series(np.array([*map(float, names), np.nan])[codes])
    found = values.to_numpy(dtype=np.float64, na_value=np.nan) + 0.0  # -0 is 0
    if np.isinf(found).any():
        raise UserError(
            f"the column {name} has an infinite value in row {int(np.isinf(found).argmax()) + 1}: correct it, or "
            f"{_drop(column)}."
        )
    gaps = np.isnan(found)
    if gaps.any() and "mean" not in column:
        raise UserError(f"the column {name} has no value in row {int(gaps.argmax()) + 1}: fill the gap.")
    return np.where(gaps, column.get("mean", 0.0), found)


def _codes(column: Column, values: pd.Series) -> NDArray[np.int64]:
    """The number of each row's value, -1 for a gap."""
    name, known = column["name"], column["values"]
    codes, names = distinct(values)
    if unknown := [text for text in names if text not in known]:
        row = int((codes == names.index(unknown[0])).argmax())
        raise UserError(
            f"the column {name} has an unknown category in row {row + 1}, {unknown[0]!r}: the known ones are "
            f"{_listed(known)}."
        )
    if (codes < 0).any() and not column.get("may_be_missing"):
        raise UserError(f"the column {name} has no value in row {int((codes < 0).argmax()) + 1}: fill the gap.")
    return np.array([*map(known.index, names), -1], dtype=np.int64)[codes]


# Choices


def _check_choice(path: Path, table: pd.DataFrame, request: Request) -> None:
    if request.target in request.drop:
        raise UserError(f"dataset.drop names {request.target}, which is dataset.target: remove it from one of them.")
    if request.target not in table.columns:
        raise UserError(
            f"dataset.target={request.target} is no column of {path}: {_nearest(request.target, [*table.columns])}"
        )
    if request.drop and (lost := {*request.drop}.difference(names := header(path))):
        raise UserError(f"dataset.drop names {min(lost)}, which is no column of {path}: {_nearest(min(lost), names)}")
    if len(table.columns) < 2:
        raise UserError(f"{path} has no columns beside {request.target}, so that there is nothing to learn from.")


def _nearest(name: str, names: Iterable[str]) -> str:
    known = [*names]
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose one of {_listed(known)}."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED + 1 else ""
    return ", ".join(names[:LISTED] if more else names) + more


def _drop(*columns: Column, before: Sequence[str] = ()) -> str:
    """The advice to leave columns out, beside those that are left out already."""
    return f"set dataset.drop={as_list([*before, *(column['name'] for column in columns)])}"


# Classes


def _classes(column: pd.Series, path: Path) -> tuple[NDArray[np.int64], list[str]]:
    """The class of each row, and the names of the classes."""
    codes, texts = distinct(column)
    name = column.name
    if not texts or (codes < 0).any():
        count = int((codes < 0).sum())
        raise UserError(f"{path} has no {name}, the target, in {plural(count, 'row')}: fill it, or remove the rows.")
    names = in_order({*map(_class_name, texts)})
    if all(map(NUMBER.fullmatch, names)) and (parts := [text for text in names if not float(text).is_integer()]):
        raise UserError(
            f"{path}: the target {name} has numbers such as {parts[0]}, which are no classes: make classes of them, or "
            "choose another dataset.target."
        )
    if len(names) > CLASSES:
        raise UserError(
            f"{path}: the target {name} has {len(names):,} different values, more than the {CLASSES:,} classes that "
            "can be learned: choose another dataset.target."
        )
    if len(names) < 2:
        raise UserError(f"{path}: all rows have one class, {names[0]}: rows of two classes or more are needed.")
    labels = np.array([names.index(_class_name(text)) for text in texts], dtype=np.int64)[codes]
    if rare := [names[label] for label in np.flatnonzero(np.bincount(labels) < 2)]:
        raise UserError(
            f"{path}: one row only has the class {rare[0]}, but one to train on and one to test on are needed: add "
            "rows of it, or remove it."
        )
    return labels, names


def _class_name(text: str) -> str:
    """Whole numbers have one name, however they are written."""
    return str(int(float(text))) if NUMBER.fullmatch(text) and float(text).is_integer() else text


# Features


class _Description:
    """How the columns of a table are encoded, and what is worth knowing of them."""

    def __init__(self, path: Path, request: Request) -> None:
        self.path, self.request = path, request
        self.left_out: dict[str, str] = {}
        self.gaps: dict[str, int] = {}
        self.numbered: list[str] = []
        self.mixed: dict[str, str] = {}
        self.empty: list[Column] = []
        self.dates: list[Column] = []
        self.texts: dict[str, str] = {}
        """Column with another text in most rows → how many, and an example."""

    def of(self, table: pd.DataFrame) -> tuple[list[Column], tuple[Any, ...]]:
        """The columns, and the last fields of `Rows`.

        Raises:
            UserError: a column cannot be encoded.
        """
        described = [self._number(each) if is_number(each) else self._category(each) for _, each in table.items()]
        columns = [column for column in described if column["name"] not in self.left_out]
        self._refuse(columns)
        return columns, (self.left_out, self.gaps, self.numbered, self.mixed)

    def _number(self, column: pd.Series) -> Column:
        name, values = str(column.name), column.to_numpy(dtype=np.float64, na_value=np.nan)
        known = values[~np.isnan(values)]
        found = {"name": name, "kind": "number", **({"mean": np.nan} if self.request.missing else {})}
        numbered = len(known) == len(values) > LISTED and _counts(known)
        if numbered and NAMELESS.fullmatch(name):
            self.left_out[name] = "row numbers without a name"
        elif numbered:
            self.numbered.append(name)
        self._look(found, len(known), len(values), constant=bool((known == known[:1]).all()))
        return found

    def _category(self, column: pd.Series) -> Column:
        name, (codes, values) = str(column.name), distinct(column)
        known = int((codes >= 0).sum())
        found = {"name": name, "kind": "category", "values": values}
        others = [text for text in values if not NUMBER.fullmatch(text)]
        if values and all(map(DATE.fullmatch, values)):
            self.dates.append(found)
        elif len(values) > 1 and (len(values) == known or len(values) > min(VALUES, max(FEW, known / 2))):
            example = (others or values)[0]
            self.texts[name] = f"{len(values)} different texts in {plural(known, 'row')}, such as {example[:40]!r}"
        elif 0 < 2 * len(others) < len(values):
            self.mixed[name] = others[0]
        self._look(found, known, len(codes), constant=len(values) == 1 and known == len(codes))
        return {**found, "may_be_missing": True} if self.request.missing else found

    def _look(self, column: Column, known: int, count: int, constant: bool) -> None:
        """Notes a column without values, with gaps, or with one value."""
        name = column["name"]
        if not known and NAMELESS.fullmatch(name):
            self.left_out[name] = "empty"
        elif not known:
            self.empty.append(column)
        elif constant and (known == count or self.request.missing):
            self.left_out[name] = "constant"
        elif known < count:
            self.gaps[name] = count - known

    def _refuse(self, columns: Sequence[Column]) -> None:
        path, before = self.path, self.request.drop
        if nameless := [each for each in columns if NAMELESS.fullmatch(each["name"])]:
            raise UserError(f"{path} has columns without a name: name them, or {_drop(*nameless, before=before)}.")
        if self.empty:
            names = _listed([each["name"] for each in self.empty])
            raise UserError(f"{path} has no values in {names}: {_drop(*self.empty, before=before)}.")
        if self.dates:
            names = _listed([each["name"] for each in self.dates])
            raise UserError(
                f"{path} has dates in {names}, which are neither numbers nor categories: make numbers of them, such as "
                f"days or years, or {_drop(*self.dates, before=before)}."
            )
        if self.texts:
            found = _listed([f"{name} ({what})" for name, what in self.texts.items()])
            advice = _drop(*({"name": name} for name in self.texts), before=before)
            raise UserError(
                f"{path} has too many texts in {found}: {advice}, or correct the texts that should be numbers."
            )
        if self.gaps and not self.request.missing:
            found = _listed([f"{name} ({count})" for name, count in self.gaps.items()])
            raise UserError(
                f"{path} has missing values in {found}: fill them, set dataset.missing=mean, or leave columns out with "
                "dataset.drop=[COLUMN]."
            )
        if not columns:
            raise UserError(f"{path} has no column with different values, so that there is nothing to learn from.")


def _counts(numbers: NDArray[np.float64]) -> bool:
    """Whether they are consecutive whole numbers in any order."""
    ordered = np.sort(numbers)
    return bool((np.diff(ordered) == 1).all() and ordered[0].is_integer())


# Settings

Sizes = tuple[int | None, int | None, int | None]
"""Of the splits for training, validation and test; None: not given."""


def measure(node: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a data set that follow from its rows; those that the user set stay.

    Raises:
        UserError: the rows cannot be read, or do not fit the settings.
    """
    path, target = node.get("path"), node.get("target")
    if not path:
        raise UserError(f"dataset={node['name']} needs dataset.path: name a CSV, TSV or Parquet file.")
    place = _place(path)
    if not target:
        names = _listed(header(place))
        raise UserError(f"dataset={node['name']} needs dataset.target: name the column of the classes, one of {names}.")
    request = Request(path, target, tuple(node.get("drop") or ()), node.get("missing"))
    sizes = (node.get("train_size"), node.get("validation_size"), node.get("test_size"))
    facts = (found.st_size, found.st_mtime_ns) if (found := _stat(place)) else ()
    measured = {"title": node.get("title") or place.stem, **_measured(request, facts, sizes, node["split_seed"])}
    for key, value in measured.items():
        if node.get(key) not in (None, value):
            raise UserError(f"dataset.{key} follows from {path}: leave it out.")
    return measured


def _stat(path: Path) -> Any:
    try:
        return path.stat()
    except OSError:  # `read` says what is wrong
        return None


@functools.lru_cache(maxsize=256)
def _measured(request: Request, facts: tuple[int, ...], sizes: Sizes, split_seed: int) -> dict[str, Any]:
    """What follows from a file with these facts; read once for all jobs of a sweep."""
    found = rows(request)
    train, validation, test = sizes_of({"all": len(found.labels)}, sizes[0], sizes[1], sizes[2], "row")
    order = proportional_order(found.labels, split_seed)
    trained = {found.digests[row] for row in order[:train]}
    return {
        "classes": len(found.class_names),
        "class_names": [*found.class_names],
        "class_counts": np.bincount(found.labels).tolist(),
        "features": found.inputs.shape[1],
        "columns": found.with_means(train, split_seed),
        "train_size": train,
        "validation_size": validation,
        "test_size": test,
        "checksum": found.checksum,
        "left_out": dict(found.left_out),
        "gaps": dict(found.gaps),
        "numbered": [*found.numbered],
        "mixed": dict(found.mixed),
        "duplicates": sum(found.digests[row] in trained for row in order[train : train + test]),
    }
