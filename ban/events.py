"""What a running stage tells the display: small, picklable, and without torch."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple


class Event(NamedTuple):
    """Something happened to a stage."""

    signature: str
    kind: Literal["waiting", "started", "step", "epoch", "finished", "stopped", "failed"]
    values: Mapping[str, float | str]


Report = Callable[[Event], None]
