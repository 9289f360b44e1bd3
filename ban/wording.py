"""Counts and durations in English, lists as on the command line, and what a misspelt name may mean."""

import difflib
import re
from collections.abc import Iterable


def plural(count: int, noun: str) -> str:
    """The count with its noun, in the plural unless the count is 1: `plural(2, "stage")` is "2 stages"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """As hours, minutes and seconds: `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def as_list(names: Iterable[str]) -> str:
    """Names as the value of a setting: `[a,'b c']`."""
    quoted = (name if re.fullmatch(r"[\w.-]+", name) else "'{}'".format(name.replace("'", r"\'")) for name in names)
    return f"[{','.join(quoted)}]"


def close(name: str, names: Iterable[str]) -> str | None:
    """The name that a misspelt one is nearest to, whatever its case; None: there is none like it."""
    lower = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.7)
    return lower[found[0]] if found else None
