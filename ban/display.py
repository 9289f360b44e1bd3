"""What a person sees while stages run: bars on a terminal, plain lines in a log."""

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ban.events import Event
from ban.plan import Stage

console = Console(highlight=False, markup=False)  # paths and messages may hold brackets
if not console.is_terminal:
    console.width = 140  # of a log; a terminal knows its own


class Display:
    """Follows events of stages. Use it as a context, and as the `report` of whoever runs them."""

    def __init__(self, stages: list[Stage], log_seconds: float) -> None:
        self.names = {stage.signature: _name(stage) for stage in stages}
        self.log_seconds = log_seconds
        self.quiet_until: dict[str, float] = {}
        self.details: dict[str, str] = {}
        """What each stage's last epoch recorded."""
        self.bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self.total = self.progress.add_task("all stages", total=len(stages), detail="")
        self.ended = 0

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        match event.kind:
            case "finished":
                self._end(event, str(event.values["outcome"]))
            case "failed":
                self._end(event, f"failed: {event.values['reason']}")
            case "waiting":
                self.quiet_until.setdefault(event.signature, 0.0)  # the first time at once
                self._line(event, "waits for another process that trains it")
            case _:
                self._advance(event)

    def _end(self, event: Event, outcome: str) -> None:
        self.ended += 1
        if (bar := self.bars.pop(event.signature, None)) is not None:
            self.progress.remove_task(bar)
        self.progress.update(self.total, completed=self.ended, detail=f"{self.ended} of {len(self.names)}")
        console.print(f"{self.names[event.signature]}: {outcome}")

    def _advance(self, event: Event) -> None:
        fraction = float(event.values["at"])
        if event.kind == "epoch":
            self.details[event.signature] = _detail(event.values)
        detail = self.details.get(event.signature) or _detail(event.values)
        if event.signature not in self.bars:
            self.bars[event.signature] = self.progress.add_task(self.names[event.signature], total=1.0, detail=detail)
        self.progress.update(self.bars[event.signature], completed=fraction, detail=detail)
        running = sum(task.completed for task in self.progress.tasks if task.id != self.total)
        self.progress.update(self.total, completed=self.ended + running)
        if not console.is_terminal and event.kind != "started":
            self._line(event, f"{fraction:4.0%} {detail}")

    def _line(self, event: Event, text: str) -> None:
        """A line in a log, now and then."""
        now = time.monotonic()
        if now >= self.quiet_until.setdefault(event.signature, now + self.log_seconds):
            self.quiet_until[event.signature] = now + self.log_seconds
            console.print(f"{self.names[event.signature]}: {text}")


def _name(stage: Stage) -> str:
    return f"{stage.label}, {stage.model['title']}, seed {stage.seed}"


def _detail(values: Mapping[str, float | str]) -> str:
    """Every loss term, the errors, and the speed."""
    hidden = {"at", "epoch", "rate", "seconds", "speed"}
    parts = [str(values["speed"])] if "speed" in values else []
    if "epoch" in values:
        parts.append(f"epoch {values['epoch']:.0f}")
    for name, value in values.items():
        if name.endswith("_error_percent"):
            parts.append(f"{name.removesuffix('_error_percent')} error {value:.1f} %")
        elif name.endswith("_perplexity"):
            parts.append(f"{name.removesuffix('_perplexity')} perplexity {value:.1f}")
        elif name not in hidden and "." not in name:  # nothing of the diagnostics, or of a cohort's other networks
            parts.append(f"{name} {value:.3f}")
    return ", ".join(parts)
