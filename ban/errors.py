"""The two ways in which a command ends without a bug."""


class UserError(Exception):
    """A request that cannot be met. The message is one clear sentence that says what to do about it."""


class Interrupted(Exception):
    """A training was asked to stop by a signal, and has saved where it stands."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
