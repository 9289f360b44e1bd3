"""SIGTERM, SIGINT and SIGHUP, kept until a training can stop without losing a step."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ban.errors import Interrupted


class Signals:
    """Remembers a signal until the training is between two steps. A second signal ends the process at once."""

    def __init__(self) -> None:
        self.number, self.received = 0, 0.0

    @contextmanager
    def caught(self) -> Iterator["Signals"]:
        """Handles SIGTERM, SIGINT and SIGHUP within the context, but leaves the SIGHUP that `nohup` ignores."""
        handled = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handled.append(signal.SIGHUP)
        before = {number: signal.signal(number, self.note) for number in handled}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raises an exception if a signal has arrived; called where it is safe to stop.

        Raises:
            Interrupted: a signal has arrived.
        """
        if self.number:
            raise Interrupted(self.number)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        now = time.monotonic()
        again = self.number and now - self.received > 1  # a signal to the process and to its group counts once
        if again and number != signal.SIGHUP:  # the shell and the kernel both send it
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.number:
            self.number, self.received = number, now
