"""Counts and durations in English, and lists as on the command line."""

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
