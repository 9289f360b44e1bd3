"""Stored results as a pandas DataFrame."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pandas has no complete types.

import warnings
from typing import Any

import pandas as pd

from ban.errors import StageError
from ban.store.result import Result
from ban.store.store import Store

DTYPES: dict[type[Any], str] = {bool: "boolean", int: "Int64", float: "Float64", str: "string"}
"""Types of columns that may have gaps."""


def frame(store: Store) -> pd.DataFrame:
    """All finished stages, one row each, in the order in which they were finished.

    `teachers` holds tuples of signatures, `finished` times in UTC; other columns are numbers, texts or booleans.
    """
    rows: list[dict[str, Any]] = []
    for signature in store.finished():
        try:
            rows.append(_row(store.result(signature)))
        except StageError as error:
            warnings.warn(f"left out: {error}", stacklevel=3)
    if not rows:
        return pd.DataFrame(columns=["signature"])
    kinds = {name: DTYPES[type(value)] for row in rows for name, value in row.items() if type(value) in DTYPES}
    found = pd.DataFrame(rows).astype(kinds).sort_values(["finished", "signature"], ignore_index=True)
    return found.assign(finished=pd.to_datetime(found["finished"], utc=True))


def _row(result: Result) -> dict[str, Any]:
    flat = {name: value for name, value in result.items() if isinstance(value, str | int | float)}
    versions = {f"{name}_version" if name != "commit" else name: value for name, value in result["versions"].items()}
    return {**flat, "teachers": tuple(result["teachers"]), **versions}
