"""Shows running stages: a live table of their families on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ban import metrics
from ban.display import STYLES, console, is_live, ready
from ban.errors import StageError
from ban.events import Event, Failed, Finished, Noted, Running, Started, Stopped, Waiting, Warned
from ban.plan.contrast import family_names, names_of
from ban.plan.stage import Stage
from ban.report.statistics import Interval
from ban.store.result import measured
from ban.store.store import Store
from ban.wording import duration

STATES = ("done", "running", "waiting", "stopped", "failed")
"""The states of a stage in a command, as the live table counts them."""
STARTING = "loading torch and the data"
"""What the table says until the first stage starts."""


@dataclass
class _Row:
    """The latest state of one stage."""

    stage: Stage
    name: str
    cost: float = 0.0
    state: str = "waiting"
    fraction: float = 0.0
    first_fraction: float = 0.0
    """The fraction that an earlier command finished."""
    device: str = ""
    detail: str = ""
    result: float | None = None
    """Its test metric."""


@dataclass
class _Family:
    """The repetitions of one training."""

    name: str
    rows: list[_Row] = field(default_factory=list)
    text: str | None = ""
    """Of the mean; None: a stage has finished since."""

    def count(self, *states: str) -> int:
        return sum(row.state in states for row in self.rows)

    @property
    def mean(self) -> str:
        """Of the finished ones, with its interval as in the tables."""
        if self.text is None:
            found = [(row.result, row.stage.streams) for row in self.rows if row.result is not None]
            self.text = Interval.of(*zip(*found, strict=True)).text() if found else ""
        return self.text


class Display:
    """Shows the events of stages. It is a context manager, and a `Report`."""

    def __init__(
        self,
        stages: Sequence[Stage],
        costs: Mapping[str, float],
        store: Store,
        log_seconds: float,
        starting: str = STARTING,
    ) -> None:
        """`costs`: signature of each stage that the store lacks → its cost in any unit, to estimate the time left."""
        self.store, self.log_seconds, self.started, self.starting = store, log_seconds, time.monotonic(), starting
        names, of_families = names_of(stages), family_names(stages)
        self.rows = {stage.signature: _Row(stage, names[stage.signature]) for stage in stages}
        self.families = {family: _Family(name) for family, name in of_families.items()}
        for signature, row in self.rows.items():
            self.families[row.stage.family].rows.append(row)
            if signature in costs:
                row.cost = costs[signature]
            else:
                self._finish(row)
        self.quiet_until: dict[str, float] = {}
        self.live = Live(console=console, get_renderable=self.render, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Display":
        ready()
        if is_live():
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
                self._finish(row)
                if not is_live():
                    console.print(f"{row.name}: {outcome}")
            case Failed():
                row.state = "failed"
                console.print(f"{row.name}: failed")  # the command ends with the reason
            case Stopped():
                row.state = "stopped"
            case Waiting(signature):
                row.device = "another command"
                self.quiet_until.setdefault(signature, 0.0)  # prints the first line at once
                self._log(signature, "waiting for another process that trains it")
            case Warned(_, text) | Noted(_, text):
                console.print(f"{row.name}: {text}")
            case Started() | Running():
                self._update(row, event)

    def _finish(self, row: _Row) -> None:
        with suppress(StageError):
            result = self.store.result(row.stage.signature)
            row.result = measured(result, "test", result["metric"])
        row.state, row.fraction, self.families[row.stage.family].text = "done", 1.0, None  # last: a thread reads them

    def _update(self, row: _Row, event: Started | Running) -> None:
        row.state, row.fraction, row.device = "running", event.fraction, event.device or row.device
        if isinstance(event, Started):
            row.first_fraction = event.fraction
            return
        row.detail = event.detail
        if not is_live():
            self._log(event.signature, f"{event.fraction:4.0%} {event.detail}")

    def _log(self, signature: str, text: str) -> None:
        """Prints a line, at most one every `log_seconds` for each stage."""
        now = time.monotonic()
        if now >= self.quiet_until.setdefault(signature, now + self.log_seconds):
            self.quiet_until[signature] = now + self.log_seconds
            console.print(f"{self.rows[signature].name}: {text}")

    # The live table

    def render(self) -> RenderableType:
        """What a terminal shows: a row for each family, what runs, and the sums of all."""
        active = [
            row for row in self.rows.values() if row.state == "running" or (row.device and row.state == "waiting")
        ]
        shown = active[: max(1, console.height // 2 - 2)]
        parts = [self._by_family(console.height - len(shown) - 5)]
        if shown:
            parts += [Text(), _running(shown, len({row.stage.model.title for row in self.rows.values()}) > 1)]
        return Group(*parts, self._summary())

    def _by_family(self, room: int) -> Table:
        """The families that the terminal has room for: those under way first."""
        table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
        of = {metrics.LABELS[family.rows[0].stage.dataset.metric] for family in self.families.values()}
        wide = console.width >= 60
        table.add_column("", no_wrap=True, overflow="ellipsis", max_width=console.width * 2 // 5)
        if wide:
            table.add_column("", width=12)
        table.add_column("done", no_wrap=True, justify="right")
        metric = f"test {of.pop()}, so far" if len(of) == 1 and wide else "test"
        table.add_column(metric, no_wrap=True, overflow="ellipsis")
        if wide:
            table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
        ranked = sorted(self.families.values(), key=lambda family: (not family.count("running"), not _open(family)))
        chosen = {id(family) for family in ranked[: max(1, room)]}
        for family in self.families.values():
            if id(family) in chosen:
                done, total = family.count("done"), len(family.rows)
                bar = ProgressBar(total=total, completed=sum(row.fraction for row in family.rows), width=12)
                texts = [Text(f"{done}/{total}"), Text(family.mean), *[self._remark(family)] * wide]
                table.add_row(Text(family.name), *[bar] * wide, *texts, style="" if _open(family) else "dim")
        if hidden := len(self.families) - len(chosen):
            table.add_row(Text(f"… {hidden} more", style="dim"))
        return table

    def _remark(self, family: _Family) -> Text:
        """What keeps a family from being done."""
        failed, stopped = family.count("failed"), family.count("stopped")
        if failed or stopped:
            state = "failed" if failed else "stopped"
            return Text(f"{failed or stopped} {state}", style=STYLES[state])
        waiting = family.count("waiting")
        if waiting < len(family.rows) or family.count("running"):
            return Text()
        parents = {parent.family for row in family.rows for parent in row.stage.parents}
        unfinished = [self.families[parent].name for parent in parents if _open(self.families[parent])]
        return Text(f"waits for {unfinished[0]}" if unfinished else "", style="dim")

    def _summary(self) -> RenderableType:
        states = [row.state for row in self.rows.values()]
        counts = Text()
        for state in filter(states.__contains__, STATES):
            total = f" of {len(states)}" if not counts else ""
            counts.append(", " if counts else "").append(f"{states.count(state)}{total} {state}", STYLES.get(state, ""))
        if {*states} <= {"waiting", "done"} and not any(row.device for row in self.rows.values()):
            counts = Text(self.starting)
        elapsed, left = time.monotonic() - self.started, self.seconds_left()
        times = duration(elapsed) + (f" + about {duration(left)}" if left is not None else "")
        total = sum(row.cost for row in self.rows.values()) or 1.0
        done = sum(row.cost * row.fraction for row in self.rows.values() if row.state != "failed")
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        line.add_column(no_wrap=True)
        if console.width >= 80:
            line.add_column(no_wrap=True)
        bar = ProgressBar(total=total, completed=done, width=12)
        line.add_row(counts.append(f"  {done / total:.0%}"), *[bar] * (console.width >= 80), Text(times))
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


def _open(family: _Family) -> bool:
    """Whether some of its stages are not finished."""
    return family.count("done") < len(family.rows)


def _running(rows: Sequence[_Row], networks: bool) -> Table:
    """What the processes do at the moment; `networks`: whether the networks' names are needed."""
    table = Table(box=None, padding=(0, 1), show_header=False, expand=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=None if console.width >= 60 else 1)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        name = Text(row.name if networks else row.name.replace(f", {row.stage.model.title}", "", 1))
        if row.state == "running":
            table.add_row(name, Text(f"{row.fraction:.0%}"), Text(row.detail))
        else:
            table.add_row(name, Text(), Text(f"trained by {row.device}", style=STYLES["waiting"]))
    return table
