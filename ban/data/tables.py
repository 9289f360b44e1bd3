"""A table in a CSV, TSV or Parquet file, as columns of numbers and of texts. Does not import torch."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# Neither pandas nor pyarrow has complete types.

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ban.errors import UserError
from ban.wording import as_list, plural

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "<NA>", "#N/A")
"""Texts that stand for no value. "None" is not among them, because it is a common category."""
SEPARATORS = ",;\t"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NAMELESS = re.compile(r"\(column \d+\)")
"""What a column without a name is called."""
INDEX = re.compile(r"__index_level_\d+__")
"""The names by which pandas stores row labels in Parquet files."""
EXACT: Any = {} if [*map(int, pd.__version__.split(".")[:2])] >= [3, 1] else {"float_precision": "round_trip"}
"""Numbers are read exactly: with this option, which is the default from pandas 3.1 on."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def read(path: Path, without: Collection[str] = (), texts: Collection[str] = ()) -> pd.DataFrame:
    """The columns of a file: numbers (a gap is NaN), or anything else, which `distinct` reads as texts.

    Args:
        path: a Parquet file, or a text in UTF-8 whose first line names the columns, which commas, semicolons or tabs
            separate. With semicolons, numbers may have a decimal comma.
        without: names of columns that are left out.
        texts: names of columns that stay texts, also if they look like numbers.

    Raises:
        UserError: the file is no such table.
    """
    is_parquet = _is_parquet(path)
    table, decimal = (_parquet(path, without), ".") if is_parquet else _separated(path, without, texts)
    if not len(table):
        raise UserError(f"{path} has a header, but no rows.")
    for name, column in [*table.items()]:
        if name not in texts and (numbers := _as_numbers(column, decimal)) is not None:
            table[name] = numbers
    return table


def header(path: Path) -> list[str]:
    """The names of a file's columns.

    Raises:
        UserError: the file is no table.
    """
    return _schema(path)[0] if _is_parquet(path) else _header(path)[0]


def _is_parquet(path: Path) -> bool:
    try:
        if not path.is_file():
            problem = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
            raise UserError(f"dataset.path={path} {problem}: name a CSV, TSV or Parquet file.")
        with path.open("rb") as file:
            return file.read(4) == b"PAR1" or path.suffix.lower() in (".parquet", ".pq")
    except OSError as error:
        raise UserError(f"dataset.path={path} cannot be read: {error.strerror}.") from None


def is_number(column: pd.Series) -> bool:
    """Whether it is a column of numbers; otherwise, of texts."""
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def distinct(column: pd.Series) -> tuple[NDArray[np.int64], list[str]]:
    """The number of each row's text, -1 where it is missing, and all different texts, sorted.

    White space counts as one space, and not at all at the ends. True and false may be written in any case.

    Raises:
        UserError: a text has control characters.
    """
    codes, values = pd.factorize(column)
    found = [_text(value) for value in values]
    if all(text.lower() in ("true", "false") for text in found):
        found = [text.capitalize() for text in found]
    names = sorted({*found}.difference(MISSING))
    for name in names:
        if UNPRINTABLE.search(name):
            raise UserError(f"the column {column.name} has a text with control characters, {name[:40]!r}: correct it.")
    number = {name: place for place, name in enumerate(names)}
    places = np.array([*(number.get(text, -1) for text in found), -1], dtype=np.int64)  # the last one for code -1
    return places[codes], names


def _text(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return " ".join(str(int(value) if whole else value).split())


def _as_numbers(column: pd.Series, decimal: str) -> NDArray[np.float64] | None:
    """The numbers of a column of texts; None: it has other texts, or is no column of texts."""
    if is_number(column):
        return None
    codes, names = distinct(column)
    names = [name.replace(decimal, ".") for name in names] if decimal == "," else names
    if not names or not all(map(NUMBER.fullmatch, names)):
        return None
    return np.array([*map(float, names), np.nan])[codes]


def _check_names(path: Path, names: Sequence[str]) -> list[str]:
    """The names of the columns, with a name for those that have none."""
    found = [" ".join(name.split()) or f"(column {place})" for place, name in enumerate(names, 1)]
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise UserError(f"{path} has several columns {twice[0]}: give each a name of its own.")
    if wrong := [name for name in found if UNPRINTABLE.search(name)]:
        raise UserError(f"{path} has a column whose name has control characters, {wrong[0][:40]!r}: rename it.")
    return found


# Texts


def _separated(path: Path, without: Collection[str], texts: Collection[str]) -> tuple[pd.DataFrame, str]:
    """A table in a text, and the sign before the decimals of its numbers."""
    names, separator = _header(path)
    rows = _checked(path, separator, len(names))
    chosen = [name for name in names if name not in without]
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            header=0,
            names=names,
            usecols=chosen,
            index_col=False,
            dtype={name: str for name in chosen if name in texts},
            na_values=[*MISSING],
            keep_default_na=False,
            skipinitialspace=True,
            **EXACT,
            low_memory=False,  # one type for a whole column
            encoding="utf-8-sig",
        )
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from None
    if len(table) != rows:
        raise UserError(f"{path} is no table: it can be read as {rows} or as {len(table)} rows.")
    return table, "," if separator == ";" else "."


def _header(path: Path) -> tuple[list[str], str]:
    """The columns' names, and the separator that makes most columns of the first line."""
    with _opened(path) as file:
        first = next((line for line in file if line.strip()), None)
        if first is None:
            raise UserError(f"{path} is empty.")
        file.seek(0)
        separator = max(SEPARATORS, key=lambda sign: len(next(csv.reader([first], delimiter=sign))))
        found = next(line for line in csv.reader(file, delimiter=separator, skipinitialspace=True) if any(line))
    if all(NUMBER.fullmatch(name) for name in found):
        raise UserError(f"{path} begins with numbers: the first line must name the columns.")
    return _check_names(path, found), separator


def _checked(path: Path, separator: str, columns: int) -> int:
    """The number of rows of a text whose lines all have as many values.

    pandas would fill short lines, and take the first values of long ones for row labels.
    """
    rows, number = -1, 0  # the header is no row
    with _opened(path) as file:
        for line in file:
            number += 1
            if "\0" in line:  # pandas would read what is before it
                raise UserError(f"{path}, line {number}, has a zero byte: it is damaged, or no text in UTF-8.")
            if line.count(separator) == columns - 1 > 0 and '"' not in line:  # much faster than a reader
                rows += 1
                continue
            reader = csv.reader(chain([line], file), delimiter=separator, skipinitialspace=True)
            values = next(reader)
            number += reader.line_num - 1
            if not any(map(str.strip, values)) and (len(values) < 2 or columns < 2):
                continue  # a blank line
            if len(values) != columns:
                raise UserError(
                    f"{path}, line {number}, has {plural(len(values), 'value')}, but there are "
                    f"{plural(columns, 'column')}: correct it, or put texts with separators in quotes."
                )
            rows += 1
    return rows


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError:
        content = path.read_bytes()
        valid = _valid(content)
        line = 1 + content.count(b"\n", 0, valid)
        raise UserError(
            f"{path} is no text in UTF-8 (byte {content[valid]:#04x} in line {line}): save it as UTF-8, or as Parquet."
        ) from None
    except csv.Error as error:
        raise UserError(f"{path} is no table that can be read: {error}.") from None


def _valid(content: bytes) -> int:
    """The bytes before the first that is not UTF-8."""
    try:
        return len(content.decode())
    except UnicodeDecodeError as error:
        return error.start


# Parquet


def _parquet(path: Path, without: Collection[str]) -> pd.DataFrame:
    names, file = _schema(path)
    import pyarrow as pa

    try:
        found = file.read()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    chosen = {name: found.column(place) for place, name in enumerate(names) if name not in without}
    columns = {name: _plain(path, name, column) for name, column in chosen.items()}
    return pa.table(columns).to_pandas(ignore_metadata=True)


def _schema(path: Path) -> tuple[list[str], Any]:
    """The columns' names, and the file for reading them."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError("Parquet files need pyarrow: pip install 'born-again[parquet]'.") from None
    try:
        file = ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    return _check_names(path, ["" if INDEX.fullmatch(name) else name for name in file.schema_arrow.names]), file


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged, or no Parquet ({' '.join(str(error).split())[:200].rstrip('.')}).")


def _plain(path: Path, name: str, column: Any) -> Any:
    """A column of numbers, truth values or texts."""
    import pyarrow.types as types

    kind = column.type
    if types.is_dictionary(kind):
        return _plain(path, name, column.cast(kind.value_type))
    if types.is_decimal(kind):
        return column.cast("float64")
    known = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)
    if any(each(kind) for each in (*known, types.is_null)):
        return column
    what = "dates or times" if types.is_temporal(kind) else f"values of the type {kind}"
    raise UserError(
        f"{path}: the column {name} has {what}, which are neither numbers nor categories: make numbers of them, such "
        f"as days or years, or set dataset.drop={as_list([name])}."
    )


# Numbers alone


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
