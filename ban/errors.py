"""Exceptions for expected failures."""


class UserError(Exception):
    """A request that cannot be met. The message is one sentence that says what to change."""


class Interrupted(Exception):
    """A signal stopped the training, after its state was saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


class StageError(UserError):
    """A stage of the store cannot be read; the others can."""


class DamagedStage(StageError):
    """The files of a stage are not those of a finished stage of this name."""
