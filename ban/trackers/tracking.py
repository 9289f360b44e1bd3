"""Sends the epochs of one stage to the trackers that `machine.trackers` names.

A tracker never ends a training: one that fails is left out for the rest of the stage in this process, with one
warning. Each gets the epochs that it lacks from the curves, which a checkpoint restores. So no epoch is missing after
an interruption, and one that is trained again is not logged again.
"""

import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from ban.errors import Interrupted, UserError
from ban.settings.schema import Machine
from ban.store.formats import CURVES, DESCRIPTION, RESULT
from ban.store.result import Result
from ban.trackers.run import Outcome, Run, Tracker

TRACKERS = {
    "tensorboard": ("ban.trackers.tensorboard.TensorBoardRun", ("tensorboard",)),
    "mlflow": ("ban.trackers.mlflow.MlflowRun", ("mlflow", "sqlalchemy", "alembic")),
    "wandb": ("ban.trackers.wandb.WandbRun", ("wandb",)),
}
"""Name → class, and the packages that it needs, which the extra of this name installs."""
INTERVAL = 2.0
"""Seconds between two calls of a tracker: epochs of small networks take milliseconds, a call to a server does not."""


def check_installed(trackers: Sequence[str]) -> None:
    """Looks for the trackers' packages without importing them.

    Raises:
        UserError: one is not installed.
    """
    for name in trackers:
        for package in TRACKERS[name][1]:
            found = find_spec(package)
            if found is None or found.origin is None:  # a folder of that name, such as the one that wandb writes
                raise UserError(
                    f"machine.trackers={name} needs the package {package}: pip install 'born-again[{name}]'."
                )


class Tracking:
    """The runs of one stage; a context that closes them."""

    def __init__(
        self, machine: Machine, run: Run, curves: Sequence[Mapping[str, float | None]], warn: Callable[[str], None]
    ) -> None:
        """`curves` grows while the stage is trained; a checkpoint's epochs are in it from the beginning."""
        self.machine, self.run, self.curves, self.warn = machine, run, curves, warn
        self.runs: dict[str, Tracker] = {}
        self.updated = time.monotonic()
        for name in dict.fromkeys(machine.trackers):
            with self._tolerant(name):
                module, _, kind = TRACKERS[name][0].rpartition(".")
                self.runs[name] = getattr(importlib.import_module(module), kind)(run, machine.outputs)

    def after_epoch(self) -> None:
        """Logs the epochs so far, unless that was done a moment ago."""
        if time.monotonic() - self.updated >= INTERVAL:
            self.update()

    def update(self) -> None:
        """Logs the epochs so far but for the last one of the training, whose test results are still to come."""
        for name in [*self.runs]:
            with self._tolerant(name):
                self._log(self.runs[name], self.curves[: self.run.epochs - 1])
        self.updated = time.monotonic()

    def finish(self, folder: Path, result: Result) -> None:
        """Adds files and results of the finished stage, whose `folder` that is, and closes the runs."""
        names = [DESCRIPTION, RESULT, CURVES]
        names += sorted(path.name for path in folder.glob("weights*")) if self.machine.track_weights else []
        last = {"epoch": 0, **_numbers(result)}  # of weights from a file: no epochs, but results
        for name, tracker in [*self.runs.items()]:
            with self._tolerant(name):
                if tracker.logged < self.run.epochs:
                    tracker.add_files([folder / each for each in names])
                    self._log(tracker, self.curves or [last])
        self.close("finished")

    def close(self, outcome: Outcome) -> None:
        """Closes the runs that are open."""
        for name in [*self.runs]:
            with self._tolerant(name):
                self.runs.pop(name).close(outcome)

    def __enter__(self) -> "Tracking":
        self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.runs:
            self.update()
            self.close("stopped" if isinstance(error, Interrupted) else "failed")

    def _log(self, tracker: Tracker, records: Sequence[Mapping[str, float | None]]) -> None:
        lacking = [record for record in records if (record["epoch"] or 0) > tracker.logged]
        if lacking:
            tracker.log([_finite(record) for record in lacking])
            tracker.logged = int(lacking[-1]["epoch"] or 0)

    @contextmanager
    def _tolerant(self, name: str) -> Iterator[None]:
        """Turns an error of a tracker into a warning, and leaves the tracker out from then on."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its libraries, which users cannot change
                yield
        except Exception as error:
            failed = self.runs.pop(name, None)
            with suppress(Exception):  # else a later stage of this process may continue this run
                if failed is not None:
                    failed.close("failed")
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.warn(f"{name} failed ({reason})")


def _finite(record: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in record.items() if value is not None and math.isfinite(value)}


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a result."""
    return {
        name: value
        for name, value in result.items()
        if name.startswith(("train_", "validation_", "test_")) and isinstance(value, float)
    }
