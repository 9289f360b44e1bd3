"""Counts and durations in English."""


def plural(count: int, noun: str) -> str:
    """The count with its noun, in the plural unless the count is 1: `plural(2, "stage")` is "2 stages"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """As hours, minutes and seconds: `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
