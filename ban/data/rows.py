"""Rows of the user's, in a table of a common format. Does not import torch.

A table becomes numbers in one way, which the settings of the data set describe (`columns`), so that other rows can be
encoded alike. Rows are in the order of their content: how a table is stored, and in which order, does not matter.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pandas has no complete types.

import csv
import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ban.data.labelled import Labelled, digest, order_by_content
from ban.data.sources import in_order
from ban.errors import UserError
from ban.wording import plural

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES, MOST_VALUES = 1000, 1000
"""Values of a target, and of a column of categories."""
MISSING = "(missing)"
"""The category of cells without a value."""
SEPARATORS = {".csv": ",;\t", ".tsv": "\t", ".txt": ",;\t"}

Column = Mapping[str, Any]
"""`name`, and `values` of a column of categories, each of which becomes a feature that is 0 or 1."""


class Request(NamedTuple):
    """What a table is read for."""

    path: str
    target: str
    drop: tuple[str, ...] = ()
    missing: str | None = None


class Found(NamedTuple):
    """A table as examples."""

    rows: NDArray[np.float64]
    """`[rows, features]`, in the order of their content; not a number where one is missing."""
    labels: NDArray[np.int64]
    class_names: Sequence[str]
    columns: Sequence[Column]
    constant: Sequence[str]
    """Columns that have one value only, which are left out."""
    duplicates: int
    """Rows that occur before, with the same label or another one."""
    checksum: str


def found(request: Request) -> Found:
    """The examples in a file.

    Raises:
        UserError: it cannot be read, or is no table of features and classes.
    """
    path = Path(request.path).expanduser()
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f"dataset.path={request.path} cannot be read: {error.strerror}.") from None
    return _found(request, path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _found(request: Request, path: Path, changed: int, size: int) -> Found:
    table = read_table(path)
    if request.target not in table.columns:
        raise UserError(f"{path} has no column '{request.target}': {_choices(request.target, [*table.columns])}")
    if unknown := [name for name in request.drop if name not in table.columns]:
        raise UserError(f"dataset.drop: {path} has no column '{unknown[0]}': {_choices(unknown[0], [*table.columns])}")
    names, labels = _classes(table[request.target], path)
    features = table.drop(columns=[request.target, *request.drop])
    constant = [name for name in features.columns if _is_constant(features[name])]
    features = features.drop(columns=constant)
    if not len(features.columns):
        raise UserError(f"{path} has no column of features: all but '{request.target}' are left out or constant.")
    if request.missing is None:
        _refuse_missing(features, path)
    columns = [_column(features[name], path) for name in features.columns]
    rows = encode(columns, features)
    digests = [digest(row) for row in rows]
    order = order_by_content(digests, labels)
    repeated = len(digests) - len({*digests})
    rows, labels = rows[order], labels[order]
    content = hashlib.sha256(json.dumps([columns, names]).encode() + rows.tobytes() + labels.astype("<i8").tobytes())
    return Found(rows, labels, names, columns, constant, repeated, f"sha256:{content.hexdigest()}")


# Reading


def read_table(path: Path) -> "pd.DataFrame":
    """A table of a CSV, TSV or Parquet file, with a line of headings.

    Raises:
        UserError: it cannot be read, or has no headings, no rows, or lines of different lengths.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file that ends in .csv, .tsv or .parquet.")
    if path.suffix.lower() not in (*SEPARATORS, ".parquet"):
        raise UserError(f"{path} does not end in .csv, .tsv or .parquet: rename it, or convert it.")
    try:
        table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not len(table):
        raise UserError(f"{path} has no rows below its headings.")
    for name in table.columns:
        column = table[name]
        if column.dtype.kind == "f" and np.isinf(column.to_numpy()).any():
            row = int(np.flatnonzero(np.isinf(column.to_numpy()))[0]) + 1
            raise UserError(
                f"{path}, column '{name}' has an infinite number in row {row}: correct it, or drop the row."
            )
    return table


def _csv(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}): convert it, for example with iconv -t utf-8."
        ) from None
    if not line.strip():
        raise UserError(f"{path} is empty, or begins with an empty line: the first line names the columns.")
    separators = SEPARATORS[path.suffix.lower()]
    separator = max(separators, key=line.count)
    headings = next(csv.reader([line], delimiter=separator))
    if twice := [name for name, count in Counter(headings).items() if count > 1]:
        raise UserError(f"{path} has {headings.count(twice[0])} columns of the name '{twice[0]}': rename them.")
    if len(headings) < 2:
        raise UserError(f"{path} has one column only: separate columns by commas, semicolons or tabs.")
    try:
        table = pd.read_csv(path, sep=separator, encoding="utf-8-sig", index_col=False, low_memory=False)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}): convert it, for example with iconv -t utf-8."
        ) from None
    except (pd.errors.ParserError, ValueError) as error:
        _refuse_ragged(path, separator, len(headings))
        raise UserError(f"{path} is no table: {' '.join(f'{error}'.split())}.") from None
    if table.iloc[:, -1].isna().any():  # pandas fills short lines
        _refuse_ragged(path, separator, len(headings))
    return table


def _refuse_ragged(path: Path, separator: str, columns: int) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        for line in reader:
            if line and len(line) != columns:
                raise UserError(
                    f"{path}, line {reader.line_num} has {plural(len(line), 'value')}, not {columns}: correct it, or "
                    "put texts with separators in quotes."
                )


def _parquet(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not find_spec("pyarrow"):
        raise UserError("Parquet files need pyarrow: pip install 'born-again[parquet]'.")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no Parquet file, or damaged: {' '.join(f'{error}'.split()).rstrip('.')}.") from None


def read_numbers(path: Path, count: int) -> NDArray[np.float64]:
    """A table of `count` columns of numbers, with or without a line of headings.

    Raises:
        UserError: it is something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [*csv.reader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"it cannot be read: {error}.") from None
    if lines and not all(map(_is_number, lines[0])):
        lines = lines[1:]
    for number, line in enumerate(filter(None, lines), 1):
        if len(line) != count or not all(map(_is_number, line)):
            raise UserError(f"row {number} does not have {count} numbers, one for each feature.")
    if not any(lines):
        raise UserError("there are no rows.")
    return np.array([[*map(float, line)] for line in lines if line])


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def _choices(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, map(str, known), 1)
    listed = ", ".join(map(str, known[:20]))
    return f"did you mean '{near[0]}'?" if near else f"choose one of {listed}{', …' if len(known) > 20 else ''}."


# What columns mean


def _classes(column: Any, path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the classes, and the number of each row's."""
    name, missing = column.name, int(column.isna().sum())
    if missing:
        raise UserError(f"{path}, column '{name}': {plural(missing, 'row')} without a class: add it, or remove them.")
    values = column.to_numpy()
    if column.dtype.kind == "f":
        if (values != np.rint(values)).any():
            raise UserError(
                f"{path}, column '{name}' has numbers with fractions, which are no classes: choose another."
            )
        values = values.astype(np.int64)
    texts = np.array([f"{value}" for value in values])
    names = in_order({*texts.tolist()})
    if len(names) < 2:
        raise UserError(f"{path}, column '{name}' has one class only ({names[0]}): there must be two or more.")
    if len(names) > MOST_CLASSES:
        raise UserError(
            f"{path}, column '{name}' has {len(names)} values: there must be {MOST_CLASSES} classes or fewer."
        )
    counts = Counter(texts.tolist())
    if rare := [each for each in names if counts[each] < 2]:
        raise UserError(
            f"{path}, column '{name}': the class {rare[0]} has one row only, but needs one for training and one for "
            "testing: add rows, or remove it."
        )
    number = {each: place for place, each in enumerate(names)}
    return names, np.array([number[text] for text in texts.tolist()], dtype=np.int64)


def _is_constant(column: Any) -> bool:
    return not _nested(column).any() and column.isna().sum() in (0, len(column)) and column.nunique() < 2


def _nested(column: Any) -> NDArray[np.bool_]:
    """Which values are lists or mappings."""
    if column.dtype != object:
        return np.zeros(len(column), dtype=bool)
    return np.array([isinstance(value, list | dict | np.ndarray) for value in column])


def _refuse_missing(features: "pd.DataFrame", path: Path) -> None:
    gaps = {name: int(count) for name, count in features.isna().sum().items() if count}
    if gaps:
        listed = ", ".join(f"{name} ({count})" for name, count in [*gaps.items()][:10])
        more = f" and {len(gaps) - 10} more" if len(gaps) > 10 else ""
        raise UserError(
            f"{path} has missing values in {listed}{more}: fill them, leave columns out with dataset.drop=[COLUMN], or "
            "set dataset.missing=mean."
        )


def _column(column: Any, path: Path) -> Column:
    """How a column is encoded."""
    name = f"{column.name}"
    if column.dtype.kind in "iuf":
        if column.isna().all():
            raise UserError(f"{path}, column '{name}' has no values: leave it out with dataset.drop=[{name}].")
        return {"name": name}
    if column.dtype.kind in "mM":
        raise UserError(
            f"{path}, column '{name}' has times, which are neither numbers nor categories: convert it, or leave it out "
            f"with dataset.drop=[{name}]."
        )
    if (nested := _nested(column)).any():
        raise UserError(f"{path}, column '{name}' has a list in row {int(nested.argmax()) + 1}: flatten it.")
    values = sorted({*map(str, column.dropna().unique().tolist())}) + ([MISSING] if column.isna().any() else [])
    if len(values) > MOST_VALUES or (len(values) > 20 and len(values) > 0.5 * len(column)):
        raise UserError(
            f"{path}, column '{name}' has {len(values)} different texts in {plural(len(column), 'row')}, such as "
            f"{values[0][:40]!r}: leave it out with dataset.drop=[{name}], or correct what should be a number."
        )
    return {"name": name, "values": values}


def encode(columns: Sequence[Column], table: "pd.DataFrame") -> NDArray[np.float64]:
    """The features of each row: numbers as they are, and a 0 or 1 for each category.

    Raises:
        UserError: a column is missing, has a text instead of a number, or a category that is not known.
    """
    parts = [_encoded(column, table) for column in columns]
    return np.concatenate(parts, axis=1) + 0.0  # no negative zero


def _encoded(column: Column, table: "pd.DataFrame") -> NDArray[np.float64]:
    name = column["name"]
    named = {f"{each}": each for each in table.columns}
    if name not in named:
        raise UserError(f"there is no column '{name}': {_choices(name, [*named])}")
    values = table[named[name]]
    if "values" not in column:
        if values.dtype.kind not in "iufb":
            raise UserError(f"the column '{name}' must have numbers only, as in training.")
        return values.to_numpy(dtype=np.float64, na_value=np.nan)[:, None]
    known: Sequence[str] = column["values"]
    texts = values.astype(object).where(values.notna(), MISSING).map(str).to_numpy()
    if unknown := {*texts.tolist()} - {*known}:
        raise UserError(f"the column '{name}' has {min(unknown)!r}, which training did not: {', '.join(known[:20])}.")
    return (texts[:, None] == np.array(known, dtype=object)[None]).astype(np.float64)


# Settings and data


def measure(node: Mapping[str, Any], data_dir: Path) -> dict[str, Any]:
    """The settings of a data set that follow from its rows; those that the user set stay.

    Raises:
        UserError: the rows cannot be read.
    """
    if not node.get("path"):
        raise UserError("dataset=rows needs dataset.path: name a file that ends in .csv, .tsv or .parquet.")
    if not node.get("target"):
        names = ", ".join(map(str, [*read_table(Path(node["path"]).expanduser()).columns][:20]))
        raise UserError(f"dataset=rows needs dataset.target: name the column of the classes; there are {names}.")
    table = found(_request(node))
    count = len(table.labels)
    test = node.get("test_size") or max(1, round(0.2 * count))
    validation = node.get("validation_size") or 0
    train = count - test - validation if node.get("train_size") is None else node["train_size"]
    if not 0 < train <= count - test - validation:
        raise UserError(
            f"dataset.train_size={train}, dataset.validation_size={validation} and dataset.test_size={test} add up to "
            f"more than the {plural(count, 'row')}."
        )
    return {
        "title": node.get("title") or Path(node["path"]).stem,
        "classes": len(table.class_names),
        "class_names": [*table.class_names],
        "class_counts": np.bincount(table.labels).tolist(),
        "features": table.rows.shape[1],
        "columns": [dict(column) for column in table.columns],
        "constant": [*table.constant],
        "duplicates": table.duplicates,
        "train_size": train,
        "validation_size": validation,
        "test_size": test,
        "checksum": table.checksum,
    }


def _request(node: Mapping[str, Any]) -> Request:
    return Request(f"{node['path']}", f"{node['target']}", tuple(node.get("drop") or ()), node.get("missing"))


def examples(checksum: str, **options: Any) -> Labelled:
    """The rows that `measure` found.

    Raises:
        UserError: they have changed since.
    """
    table = found(_request(options))
    if table.checksum != checksum:
        raise UserError(f"{options['path']} has changed since the command started: start it again.")
    return Labelled(table.rows, table.labels)
