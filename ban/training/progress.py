"""Reports the progress of one training as events for the display."""

import time
from collections.abc import Mapping
from typing import Literal

from ban.events import Report, Running
from ban.interfaces import Data
from ban.training.loop import TrainingState

INTERVAL = 0.5
"""Seconds between two events of a kind."""
HIDDEN = ("epoch", "rate", "seconds")


class ProgressReporter:
    """Sends `Running` events, at most two each second after steps and two after epochs."""

    def __init__(self, signature: str, state: TrainingState, data: Data, report: Report) -> None:
        self.signature, self.state, self.data, self.report = signature, state, data, report
        self.detail = ""
        now = time.monotonic()
        self._sent = {"step": now, "epoch": now}

    def after_step(self) -> None:
        """Reports progress between steps, and between the batches of an evaluation."""
        if self._is_due("step"):
            self._send(self.detail or self._speed())

    def after_epoch(self, record: Mapping[str, float]) -> None:
        """Reports a finished epoch."""
        if self._is_due("epoch"):
            self.detail = describe(self._speed(), record)
            self._send(self.detail)

    def _is_due(self, kind: Literal["step", "epoch"]) -> bool:
        now = time.monotonic()
        due = now - self._sent[kind] >= INTERVAL
        if due:
            self._sent[kind] = now
        return due

    def _send(self, detail: str) -> None:
        self.report(Running(self.signature, self.state.progress.fraction, detail))

    def _speed(self) -> str:
        return f"{examples_per_second(self.state, self.data):.0f} {self.data.examples}/s"


def examples_per_second(state: TrainingState, data: Data) -> float:
    """Training images, rows or words per second of training time, over all processes that took part."""
    return state.steps * data.examples_per_step / max(1e-9, state.seconds)


def describe(speed: str, record: Mapping[str, float]) -> str:
    """Metrics, loss terms and speed of an epoch in one line, whose end has no room on a narrow terminal."""
    tested: list[str] = []
    losses: list[str] = []
    for name, value in record.items():
        if name.endswith("_error_percent"):
            tested.append(f"{name.removesuffix('_error_percent')} error {value:.1f} %")
        elif name.endswith("_perplexity"):
            tested.append(f"{name.removesuffix('_perplexity')} perplexity {value:.1f}")
        elif name not in HIDDEN and "." not in name:  # no diagnostics, and nothing of a cohort's other networks
            losses.append(f"{name} {value:.3f}")
    return ", ".join([*tested, *losses, f"epoch {record['epoch']:.0f}", speed])
