"""What a person sees while stages run: a live table on a terminal, plain lines in a log."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ban.events import Event
from ban.plan.stage import Stage

console = Console(highlight=False, markup=False)  # paths and messages may hold brackets
if not console.is_terminal:
    console.width = 140  # of a log; a terminal knows its own


@dataclass
class _Seen:
    """What is known of one stage."""

    name: str
    cost: float
    state: str = "waits"
    at: float = 0.0
    first_at: float = 0.0
    """Where it stood when it was started: another run's work."""
    where: str = ""
    detail: str = ""


class Display:
    """Follows events of stages. Use it as a context, and as the `report` of whoever runs them."""

    def __init__(self, stages: Sequence[Stage], costs: Mapping[str, float], log_seconds: float) -> None:
        """`costs`: of each signature, in any unit: what the remaining time is computed from."""
        self.stages = {stage.signature: _Seen(name_of(stage), costs[stage.signature]) for stage in stages}
        self.log_seconds, self.begun = log_seconds, time.monotonic()
        self.quiet_until: dict[str, float] = {}
        self.live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Display":
        if console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        seen, values = self.stages[event.signature], event.values
        match event.kind:
            case "finished":
                seen.state, seen.at = "done", 1.0
                console.print(f"{seen.name}: {values['outcome']}")
            case "failed":
                seen.state, seen.detail = "failed", str(values["reason"])
                console.print(f"{seen.name}: failed: {seen.detail}")
            case "stopped":
                seen.state = "stopped"
            case "waiting":
                seen.where = "another command"
                self.quiet_until.setdefault(event.signature, 0.0)  # the first time at once
                self._line(event.signature, "waits for another process that trains it")
            case _:
                self._advance(event)

    def _advance(self, event: Event) -> None:
        seen = self.stages[event.signature]
        seen.state, seen.at = "runs", float(event.values["at"])
        if event.kind == "started":
            seen.first_at, seen.where = seen.at, str(event.values.get("where", ""))
            if "remark" in event.values:
                console.print(f"{seen.name}: {event.values['remark']}")
            return
        if "detail" in event.values:  # a note's
            seen.where, seen.detail = str(event.values["where"]), str(event.values["detail"])
        elif event.kind == "epoch" or not seen.detail:
            seen.detail = details(event.values)
        if not console.is_terminal:
            self._line(event.signature, f"{seen.at:4.0%} {seen.detail}")

    def _line(self, signature: str, text: str) -> None:
        """A line in a log, now and then."""
        now = time.monotonic()
        if now >= self.quiet_until.setdefault(signature, now + self.log_seconds):
            self.quiet_until[signature] = now + self.log_seconds
            console.print(f"{self.stages[signature].name}: {text}")

    # The live table

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 1), expand=True)
        for heading, ratio in (("stage", None), ("state", None), ("", None), ("", 1)):
            table.add_column(heading, ratio=ratio, no_wrap=True, overflow="ellipsis")
        for seen in self._shown():
            bar = ProgressBar(total=1.0, completed=seen.at, width=12) if seen.state == "runs" else ""
            table.add_row(Text(seen.name), Text(_state(seen)), bar, Text(seen.detail))
        return Group(table, self._summary())

    def _shown(self) -> list[_Seen]:
        """As many stages as the terminal has room for: those that run or failed, then those that wait or are done."""
        order = {"runs": 0, "failed": 1, "stopped": 2, "waits": 3, "done": 4}
        ranked = sorted(self.stages.values(), key=lambda seen: order[seen.state])
        room = {id(seen) for seen in ranked[: max(1, console.height - 4)]}
        return [seen for seen in self.stages.values() if id(seen) in room]

    def _summary(self) -> RenderableType:
        states = [seen.state for seen in self.stages.values()]
        counts = ", ".join(f"{states.count(state)} {word}" for state, word in _WORDS.items() if state in states)
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(ratio=5)
        line.add_column(ratio=2)
        line.add_column(ratio=5)
        elapsed, left = time.monotonic() - self.begun, self.seconds_left()
        times = f"{duration(elapsed)} so far" + (f", about {duration(left)} left" if left is not None else "")
        total = sum(seen.cost for seen in self.stages.values()) or 1.0
        done = sum(seen.cost * seen.at for seen in self.stages.values() if seen.state != "failed")
        line.add_row(Text(counts), ProgressBar(total=total, completed=done), Text(times))
        return line

    def seconds_left(self) -> float | None:
        """Until all is done if it goes on as it went so far; None while that is too early to say."""
        ahead = [seen for seen in self.stages.values() if seen.state in ("waits", "runs")]
        left = sum(seen.cost * (1 - seen.at) for seen in ahead)
        done = sum(seen.cost * (seen.at - seen.first_at) for seen in self.stages.values() if seen.state != "failed")
        elapsed = time.monotonic() - self.begun
        return left / done * elapsed if done > 0.01 * (done + left) and elapsed > 5 else None


_WORDS = {"waits": "waiting", "runs": "running", "done": "done", "stopped": "stopped", "failed": "failed"}


def _state(seen: _Seen) -> str:
    return seen.where if seen.where and seen.state in ("runs", "waits") else _WORDS[seen.state]


def duration(seconds: float) -> str:
    """As hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def name_of(stage: Stage) -> str:
    """What a stage is called in a line of its own."""
    return f"{stage.label}, {stage.model.title}, seed {stage.seed}"


def details(values: Mapping[str, float | str]) -> str:
    """The speed, every loss term and the errors of an event."""
    hidden = {"at", "epoch", "rate", "seconds", "speed", "where"}
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
