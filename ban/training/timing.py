"""Times what runs on a device."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Timed(NamedTuple):
    """How much was done, and how long it took altogether."""

    amount: int
    seconds: float


def timed(act: Callable[[], object], device: torch.device, *, seconds: float, most: int | None = None) -> Timed:
    """Runs `act` at least once, and again until `seconds` have passed or it ran `most` times.

    The time ends when the device has finished; between two runs nothing waits for it.
    """
    wait(device)
    started, count = time.perf_counter(), 0
    while not count or (time.perf_counter() - started < seconds and count != most):
        act()
        count += 1
    wait(device)
    return Timed(count, time.perf_counter() - started)


def wait(device: torch.device) -> None:
    """Until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
