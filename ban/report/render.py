"""Tables on the console, and as Markdown, CSV and LaTeX under `<outputs>/tables`."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from ban import metrics
from ban.display import console, show_table
from ban.report import markup, verdicts
from ban.report.markup import Section
from ban.report.tables import Row, Table

SPLITS = {"validation": "validation", "test": "test", "train": "training"}
"""In the order of the columns → their headings."""


def show(tables: Sequence[Table], outputs: Path, name: str = "last") -> None:
    """Shows and writes comparison tables."""
    if not tables:
        console.print("No stage of this table is finished yet.")
        return
    shown: list[tuple[str, Section]] = []
    sections: list[Section] = []
    for table in tables:
        rows, title = texts(table), f"{table.network}{size(table)}"
        notes = [*verdicts.notes([table])[0], *verdicts.about_intervals([table])]
        shown.append((f"{title}, {metrics.LABELS[table.metric]}", Section(table.title, rows, notes)))
        sections.append(Section(f"{title}. {table.title}.", rows, notes))
    publish(shown, [record(table, row) for table in tables for row in table.rows], sections, outputs / "tables" / name)


def texts(table: Table) -> list[dict[str, str]]:
    """The rows as people read them: heading → text."""
    splits = [split for split in SPLITS if any(split in row.measured for row in table.rows)]
    rows: list[dict[str, str]] = []
    for row in table.rows:
        line = {"": row.heading}
        for split in splits:
            missing = "missing" if split == "test" and row.families and not row.measured else ""
            line[SPLITS[split]] = row.measured[split].text() if split in row.measured else missing
            if split == "test" and any(row.gain for row in table.rows):
                line["against the teacher"] = row.gain.text(sign=True) if row.gain else ""
                line["pairs"] = verdicts.pairs(row.gain) if row.gain else ""
        rows.append({**line, "n": verdicts.count(row)})
    return rows


def size(table: Table) -> str:
    """The parameters in brackets."""
    if table.parameters is None:
        return ""
    small = table.parameters < 100_000
    return f" ({table.parameters:,} parameters)" if small else f" ({table.parameters / 1e6:.2f} M)"


def record(table: Table, row: Row) -> dict[str, Any]:
    """A row in full precision, for the CSV file."""
    values: dict[str, Any] = {"regime": table.title, "network": table.network, "cell": row.heading}
    intervals = {f"{split}_{table.metric}": row.measured.get(split) for split in SPLITS} | {"difference": row.gain}
    for name, interval in intervals.items():
        values[name] = interval.mean if interval else None
        values[f"{name}_half_width"] = interval.half_width if interval else None
    values |= {f"{split}_unknown_percent": value for split, value in table.unknown_percent.items()}
    for prefix, interval in (("", row.measured.get("test")), ("difference_", row.gain)):
        values[f"{prefix}n"] = interval.count if interval else 0
        values[f"{prefix}clusters"] = interval.clusters if interval else 0
    return {**values, "teachers": row.teachers, "seeds": row.seeds, "families": " ".join(row.families), **row.settings}


def publish(
    shown: Sequence[tuple[str, Section]],
    records: Sequence[Mapping[str, Any]],
    sections: Sequence[Section],
    target: Path,
) -> None:
    """Writes sections as Markdown and LaTeX, and the records behind them as CSV, to files that begin with `target`.

    Then shows titles and sections on the console: `| less` would keep the files waiting.
    """
    outcome = _write(records, sections, target)
    for title, section in shown:
        show_table(section.rows, title, section.caption)
        for note in section.notes:
            console.print(_coloured(note) if console.is_terminal else note)
    console.print(outcome)


def _coloured(note: str) -> Text:
    """A note with its verdicts in colour."""
    text = Text(note)
    for verdict, colour in ((verdicts.BETTER, "green"), (verdicts.WORSE, "red")):
        text.highlight_regex(rf"{verdict}: [^;.]*", colour)
    return text


def _write(records: Sequence[Mapping[str, Any]], sections: Sequence[Section], target: Path) -> str:
    """Returns a sentence about the files."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{target}.md").write_text(markup.markdown(sections), encoding="utf-8")
        Path(f"{target}.tex").write_text(markup.latex(sections), encoding="utf-8")
        with Path(f"{target}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(key for each in records for key in each), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
    except OSError as error:  # of a store that this user may only read
        return f"The table was not written to {target.parent}: {error.strerror}."
    return f"Written: {target}.md, .csv, .tex"
