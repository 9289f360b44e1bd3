"""What the process that trains a stage reports to others: small, picklable, and without torch."""

from collections.abc import Callable
from typing import NamedTuple


class Waiting(NamedTuple):
    """Another process trains the stage; reported twice a second until it is finished."""

    signature: str


class Started(NamedTuple):
    """A training started, or resumed from a checkpoint."""

    signature: str
    fraction: float
    """The finished fraction of the training, in [0, 1]."""
    device: str = ""


class Warned(NamedTuple):
    """Something failed that the training goes on without: a tracker, or a damaged checkpoint."""

    signature: str
    text: str


class Noted(NamedTuple):
    """Something to know about the training that is not a problem: that it was compiled."""

    signature: str
    text: str


class Running(NamedTuple):
    """A training made progress."""

    signature: str
    fraction: float
    detail: str
    """Speed, losses and errors."""
    device: str = ""


class Stopped(NamedTuple):
    """A signal stopped the training after a checkpoint was saved."""

    signature: str
    fraction: float


class Finished(NamedTuple):
    """The stage is in the store."""

    signature: str
    outcome: str


class Failed(NamedTuple):
    """The stage cannot be trained."""

    signature: str
    reason: str


Event = Waiting | Started | Warned | Noted | Running | Stopped | Finished | Failed
Failures = dict[str, str]
"""Signature → reason."""
Report = Callable[[Event], None]
