"""Shows running stages: a live table on a terminal, plain lines elsewhere."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ban.events import Event, Failed, Finished, Running, Started, Stopped, Waiting, Warned
from ban.plan.contrast import names_of
from ban.plan.stage import Stage
from ban.wording import duration


class _Console(Console):
    """Wraps tables but not sentences, so that a path or a name in them stays in one piece."""

    def print(self, *objects: Any, **options: Any) -> None:
        """See `rich.console.Console`."""
        options.setdefault("soft_wrap", all(isinstance(each, str) for each in objects))
        super().print(*objects, **options)


console = _Console(highlight=False, markup=False)  # paths and messages may contain brackets
if not console.is_terminal:
    console.width = 140  # of a log file; a terminal knows its own width

STATES = ("waiting", "running", "done", "stopped", "failed")
"""The states of a stage in a command, as the live table counts them."""


@dataclass
class _Row:
    """The latest state of one stage."""

    name: str
    cost: float
    state: str = "waiting"
    fraction: float = 0.0
    first_fraction: float = 0.0
    """The fraction that an earlier command finished."""
    device: str = ""
    detail: str = ""


class Display:
    """Shows the events of stages. It is a context manager, and a `Report`."""

    def __init__(self, stages: Sequence[Stage], costs: Mapping[str, float], log_seconds: float) -> None:
        """`costs` maps signatures to costs in any unit; the remaining time is computed from them."""
        self.rows = {signature: _Row(name, costs[signature]) for signature, name in names_of(stages).items()}
        self.log_seconds, self.started = log_seconds, time.monotonic()
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
        row = self.rows[event.signature]
        match event:
            case Finished(_, outcome):
                row.state, row.fraction = "done", 1.0
                console.print(f"{row.name}: {outcome}")
            case Failed(_, reason):
                row.state, row.detail = "failed", reason
                console.print(f"{row.name}: failed")  # the command ends with the reason
            case Stopped():
                row.state = "stopped"
            case Waiting(signature):
                row.device = "another command"
                self.quiet_until.setdefault(signature, 0.0)  # prints the first line at once
                self._log(signature, "waiting for another process that trains it")
            case Warned(_, text):
                console.print(f"{row.name}: {text}")
            case Started() | Running():
                self._update(row, event)

    def _update(self, row: _Row, event: Started | Running) -> None:
        row.state, row.fraction, row.device = "running", event.fraction, event.device or row.device
        if isinstance(event, Started):
            row.first_fraction = event.fraction
            return
        row.detail = event.detail
        if not console.is_terminal:
            self._log(event.signature, f"{event.fraction:4.0%} {event.detail}")

    def _log(self, signature: str, text: str) -> None:
        """Prints a line, at most one every `log_seconds` for each stage."""
        now = time.monotonic()
        if now >= self.quiet_until.setdefault(signature, now + self.log_seconds):
            self.quiet_until[signature] = now + self.log_seconds
            console.print(f"{self.rows[signature].name}: {text}")

    # The live table

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 1), expand=True)
        for heading, ratio in (("stage", None), ("state", None), ("", None), ("", 1)):
            table.add_column(heading, ratio=ratio, no_wrap=True, overflow="ellipsis")
        for row in self._visible():
            bar = ProgressBar(total=1.0, completed=row.fraction, width=12) if row.state == "running" else ""
            state = row.device if row.device and row.state in ("running", "waiting") else row.state
            table.add_row(Text(row.name), Text(state), bar, Text(row.detail))
        return Group(table, self._summary())

    def _visible(self) -> list[_Row]:
        """The rows that the terminal has room for: running and failed stages first."""
        order = ("running", "failed", "stopped", "waiting", "done")
        ranked = sorted(self.rows.values(), key=lambda row: order.index(row.state))
        room = {id(row) for row in ranked[: max(1, console.height - 4)]}
        return [row for row in self.rows.values() if id(row) in room]

    def _summary(self) -> RenderableType:
        states = [row.state for row in self.rows.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
        line = Table.grid(padding=(0, 1), expand=True)
        for ratio in (5, 2, 5):
            line.add_column(ratio=ratio)
        elapsed, left = time.monotonic() - self.started, self.seconds_left()
        times = f"{duration(elapsed)} elapsed" + (f", about {duration(left)} left" if left is not None else "")
        total = sum(row.cost for row in self.rows.values()) or 1.0
        done = sum(row.cost * row.fraction for row in self.rows.values() if row.state != "failed")
        line.add_row(Text(counts), ProgressBar(total=total, completed=done), Text(times))
        return line

    def seconds_left(self) -> float | None:
        """The remaining seconds at the speed so far; None until there is enough to extrapolate from."""
        unfinished = [row for row in self.rows.values() if row.state in ("waiting", "running")]
        left = sum(row.cost * (1 - row.fraction) for row in unfinished)
        done = sum(
            row.cost * (row.fraction - row.first_fraction) for row in self.rows.values() if row.state != "failed"
        )
        elapsed = time.monotonic() - self.started
        return left / done * elapsed if done > 0.01 * (done + left) and elapsed > 5 else None


# Tables

NUMBER = r"[^\w\s]*\d(?:[\d.,:]*\d)?(?:e[+-]?\d+)?"
PART = re.compile(rf"{NUMBER}(?: ± {NUMBER})?(?: (?:%|[A-Za-z]{{1,10}})[^\w\s]*)?(?!\S)|\S+")
"""What stays on one line: a word, or a number with its uncertainty and a short word behind it, perhaps its unit."""


def show_table(rows: Sequence[Mapping[str, str]], title: str = "", caption: str = "") -> None:
    """Prints a table. One too wide for the console is transposed or, if that does not help, printed line by line.

    Texts are wrapped between words, but not between a number and its unit, and cells of numbers never. Columns without
    content are left out.
    """
    every = dict.fromkeys(heading for row in rows for heading in row)
    headings = [heading for heading in every if any(row.get(heading) for row in rows)]
    lines = [headings, *([row.get(heading, "") for heading in headings] for row in rows)]
    transposed = [[*line] for line in zip(*lines, strict=True)]
    transposed[0][0] = ""
    if title:
        console.print(title)
    if table := _fitting(lines) or _fitting(transposed):
        console.print(table)
    else:
        for first, *others in lines[1:]:
            console.print(_wrapped(first, console.width))
            for heading, text in zip(headings[1:], others, strict=True):
                if text:
                    console.print(_indented(f"{heading}: {text}"))
    if caption:
        console.print(caption)


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Prints names and what belongs to them side by side, or below each other where the console is too narrow."""
    room = console.width - 4 - max((cell_len(name) for name, _ in facts), default=0)
    if room < max((cell_len(part) for _, text in facts for part in PART.findall(text)), default=0):
        for name, text in facts:
            console.print(f"{name}\n{_indented(text)}")
        return
    table = Table(box=None, show_header=False)
    for name, text in facts:
        table.add_row(name, _wrapped(text, room))
    console.print(table)


def _fitting(lines: Sequence[Sequence[str]]) -> Table | None:
    """The table, if its longest words and numbers have room on the console."""
    table, columns = Table(), [*zip(*lines, strict=True)]
    numbers = [all(re.fullmatch("(missing)?[^A-Za-z]*", cell) for cell in cells) for _, *cells in columns]
    spare = console.width - 1 - 3 * len(columns)
    parts = [
        [*PART.findall(heading), *(part for cell in cells for part in ([cell] if whole else PART.findall(cell))), ""]
        for (heading, *cells), whole in zip(columns, numbers, strict=True)
    ]
    widths = [max(map(cell_len, each)) for each in parts]
    spare -= sum(widths)
    for index, cells in enumerate(columns):
        more = max(0, min(spare, max(map(cell_len, cells)) - widths[index]))
        spare -= more
        widths[index] += more
        heading = _wrapped(cells[0], widths[index])
        table.add_column(heading, justify="right" if numbers[index] else "left", width=widths[index])
    for line in lines[1:]:
        table.add_row(*map(_wrapped, line, widths))
    return table if spare >= 0 else None


def _wrapped(text: str, width: int) -> str:
    """The text in lines of at most `width` cells, as far as its parts have room."""
    lines: list[str] = []
    for part in PART.findall(text):
        if lines and cell_len(f"{lines[-1]} {part}") <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in _wrapped(text, console.width - 2).splitlines())
