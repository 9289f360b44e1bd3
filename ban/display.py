"""The console of all commands: tables, facts, and a word about what takes time. Imports nothing but rich."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment, Segments
from rich.status import Status
from rich.style import Style
from rich.table import Table


class _Console(Console):
    """Wraps tables. Sentences are wrapped on terminals only, and between words: a path or a name stays in one piece."""

    def print(self, *objects: Any, **options: Any) -> None:
        """See `rich.console.Console`."""
        if all(isinstance(each, str) for each in objects):
            options = ({"overflow": "ignore", "crop": False} if self.is_terminal else {"soft_wrap": True}) | options
        super().print(*objects, **options)


console = _Console(highlight=False, markup=False)  # paths and messages may contain brackets
if not console.is_terminal:
    console.width = 140  # of a log file; a terminal knows its own width

STYLES = {"running": "green", "failed": "bold red", "stopped": "yellow", "waiting": "dim"}
"""State of a stage → its colour."""


def is_live() -> bool:
    """Whether the console is a terminal that can replace what it shows."""
    return console.is_terminal and not console.is_dumb_terminal


# What takes time before there is anything to show

_busy: list[Status] = []


def busy(text: str) -> None:
    """Says on a terminal what the command is doing: in its last line, until `ready` or the next call, where it can."""
    if _busy:
        _busy[0].update(text)
    elif is_live():
        _busy.append(console.status(text, spinner="line", refresh_per_second=4))
        _busy[0].start()
    elif console.is_terminal:
        console.print(f"{text} …")


def ready() -> None:
    """Ends what `busy` shows: the terminal is needed for a question, a live table or the end."""
    while _busy:
        _busy.pop().stop()


# Tables

NUMBER = r"[^\w\s]*\d(?:[\d.,:]*\d)?(?:e[+-]?\d+)?"
PART = re.compile(rf"{NUMBER}(?: ± {NUMBER})?(?: (?:%|[A-Za-z]{{1,10}})[^\w\s]*)?(?!\S)|\S+")
"""What stays on one line: a word, or a number with its uncertainty and a short word behind it, perhaps its unit."""


def show_table(
    rows: Sequence[Mapping[str, str]], title: str = "", caption: str = "", spare: Sequence[str] = ()
) -> None:
    """Prints a table. One too wide for the console is transposed or, if that does not help, printed line by line.

    Texts are wrapped between words, but not between a number and its unit, and cells of numbers never. Columns without
    content are left out, and on a terminal those in `spare`, one after the other, until nothing needs to be wrapped.
    """
    headings = _headings(rows, spare if console.is_terminal else ())
    lines = [headings, *([row.get(heading, "") for heading in headings] for row in rows)]
    transposed = [[*line] for line in zip(*lines, strict=True)]
    transposed[0][0] = ""
    if title:
        console.print(title)
    if table := _fitting(lines) or _fitting(transposed):
        console.print(table, crop=False, end="")
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


def _headings(rows: Sequence[Mapping[str, str]], spare: Sequence[str]) -> list[str]:
    """Of the columns that are shown."""
    every = dict.fromkeys(heading for row in rows for heading in row)
    headings = [heading for heading in every if any(row.get(heading) for row in rows)]
    for heading in spare:
        if heading in headings and _width(headings, rows) > console.width:
            headings.remove(heading)
    return headings


def _width(headings: Sequence[str], rows: Sequence[Mapping[str, str]]) -> int:
    """Of a table without wrapped cells."""
    return 1 + sum(
        3 + max(cell_len(text) for text in (name, *(row.get(name, "") for row in rows))) for name in headings
    )


def _fitting(lines: Sequence[Sequence[str]]) -> Segments | None:
    """The table, if its longest words and numbers have room on the console."""
    columns = [*zip(*lines, strict=True)]
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
    return Segments(_drawn(lines, widths, numbers)) if spare >= 0 else None


def _drawn(lines: Sequence[Sequence[str]], widths: Sequence[int], numbers: Sequence[bool]) -> Iterator[Segment]:
    """A table in a frame. Rich's own takes a millisecond for each row."""
    frame = box.HEAVY_HEAD.substitute(console.options, safe=console.safe_box)
    room = [width + 2 for width in widths]
    yield Segment(f"{frame.get_top(room)}\n")
    for index, line in enumerate(lines):
        left, between, right = (
            (frame.mid_left, frame.mid_vertical, frame.mid_right)
            if index
            else (frame.head_left, frame.head_vertical, frame.head_right)
        )
        cells = [_wrapped(cell, width).split("\n") for cell, width in zip(line, widths, strict=True)]
        styles = [Style.parse("bold" if not index else STYLES.get(cell, "")) for cell in line]
        for parts in zip_longest(*cells, fillvalue=""):
            yield Segment(left)
            for column, (part, width) in enumerate(zip(parts, widths, strict=True)):
                padding = " " * (width - cell_len(part))
                text = f"{padding}{part}" if numbers[column] else f"{part}{padding}"
                yield Segment(f" {text} ", styles[column])
                yield Segment(between if column < len(widths) - 1 else f"{right}\n")
        if not index:
            yield Segment(f"{frame.get_row(room, 'head')}\n")
    yield Segment(f"{frame.get_bottom(room)}\n")


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
