"""Tables on the console, and as Markdown, CSV and LaTeX under `<outputs>/tables`."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pandas has no complete types.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table as RichTable

from ban import metrics
from ban.display import console
from ban.report.tables import Row, Table
from ban.wording import plural

SPLITS = {"validation": "validation", "test": "test", "train": "training"}
"""In the order of the columns → their headings."""


class Section(NamedTuple):
    """A table of texts as people read it. A row maps headings to texts; a missing one is empty."""

    caption: str
    rows: Sequence[Mapping[str, str]]
    notes: Sequence[str]


def show(tables: Sequence[Table], outputs: Path, name: str = "last") -> None:
    """Shows and writes comparison tables."""
    if not tables:
        console.print("No stage of this table is finished yet.")
        return
    sections: list[Section] = []
    for table in tables:
        texts, title = _texts(table), f"{table.network}{size(table)}"
        present(f"{title}, {metrics.LABELS[table.metric]}", Section(table.title, texts, table.notes))
        sections.append(Section(f"{title}. {table.title}.", texts, table.notes))
    write([record(table, row) for table in tables for row in table.rows], sections, outputs, name)


def _texts(table: Table) -> list[dict[str, str]]:
    splits = [split for split in SPLITS if any(split in row.measured for row in table.rows)]
    rows: list[dict[str, str]] = []
    for row in table.rows:
        line = {"": row.heading}
        for split in splits:
            missing = "missing" if split == "test" and row.planned and not row.measured else ""
            line[SPLITS[split]] = row.measured[split].text() if split in row.measured else missing
            if split == "test":
                line["against the teacher"] = row.gain.text(sign=True) if row.gain else ""
        rows.append({**line, "n": count(row)})
    return rows


def size(table: Table) -> str:
    """The parameters in brackets."""
    if table.parameters is None:
        return ""
    small = table.parameters < 100_000
    return f" ({table.parameters:,} parameters)" if small else f" ({table.parameters / 1e6:.2f} M)"


def count(row: Row) -> str:
    """The repetitions, and the teachers behind them where they are fewer."""
    if "test" not in row.measured:
        return "0"
    repetitions = row.measured["test"].count
    return f"{repetitions}, {plural(row.teachers, 'teacher')}" if row.teachers < repetitions else f"{repetitions}"


def record(table: Table, row: Row) -> dict[str, Any]:
    """A row in full precision, for the CSV file."""
    values: dict[str, Any] = {"regime": table.title, "network": table.network, "cell": row.heading}
    intervals = {f"{split}_{table.metric}": row.measured.get(split) for split in SPLITS} | {"difference": row.gain}
    for name, interval in intervals.items():
        values[name] = interval.mean if interval else None
        values[f"{name}_half_width"] = interval.half_width if interval else None
    repetitions = row.measured["test"].count if row.measured else 0
    values |= {f"{split}_unknown_percent": value for split, value in table.unknown_percent.items()}
    return {**values, "n": repetitions, "teachers": row.teachers}


def present(title: str, section: Section) -> None:
    """On the console; a table too wide for it is transposed."""
    headings = [*dict.fromkeys(heading for row in section.rows for heading in row)]
    lines = [headings, *([row.get(heading, "") for heading in headings] for row in section.rows)]
    width = sum(max(map(len, column)) + 3 for column in zip(*lines, strict=True))
    if width > console.width and len(section.rows) < len(headings):
        lines = [[*line] for line in zip(*lines, strict=True)]
        lines[0][0] = ""
    rich = RichTable(title=title, caption=section.caption, caption_justify="left")
    for heading in lines[0]:
        rich.add_column(heading, justify="left" if heading in ("", "network") else "right")
    for line in lines[1:]:
        rich.add_row(*line)
    console.print(rich)
    for note in section.notes:
        console.print(note)


def write(records: Sequence[Mapping[str, Any]], sections: Sequence[Section], outputs: Path, name: str) -> None:
    """Writes sections as Markdown and LaTeX, and the records behind them as CSV."""
    target = outputs / "tables" / name
    blocks: list[str] = []
    latex: list[str] = []
    for caption, rows, notes in sections:
        frame = pd.DataFrame(rows).fillna("")
        blocks += [caption, frame.to_markdown(index=False, disable_numparse=True), *notes]
        latex.append(f"% {caption}\n{frame.to_latex(index=False, escape=True)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{target}.md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
        Path(f"{target}.tex").write_text("\n".join(latex), encoding="utf-8")
        pd.DataFrame(records).to_csv(f"{target}.csv", index=False)
    except OSError as error:  # of a store that this user may only read
        console.print(f"The table was not written to {target.parent}: {error.strerror}.")
        return
    console.print(f"Written: {target}.md, .csv, .tex")
