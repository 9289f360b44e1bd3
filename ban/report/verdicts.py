"""The sentences below a table: which differences are resolved, and what intervals and means are about."""

from collections.abc import Iterable, Sequence

from ban.report.statistics import Interval, resolved
from ban.report.tables import Row, Table
from ban.wording import plural

BETTER, WORSE, UNRESOLVED = "better than the teacher", "worse than the teacher", "not resolved"
EQUAL, ALONE, ONE = "all pairs equal, so no interval", "one cluster only", "one pair only"
NARROW = {"error_percent": (0.3, " points"), "perplexity": (1.0, "")}
"""Metric → half the width of an interval that tells apart what papers compare, and its unit."""
ADJUSTED = "at the 5 % level, adjusted for all differences of this table (Holm); the intervals are not adjusted"


def notes(tables: Sequence[Table]) -> list[list[str]]:
    """The notes of each of the tables, which are shown as one: their differences are adjusted together."""
    differences = [row.gain for table in tables for row in table.rows]
    differences += [compared.difference for table in tables for compared in table.compared]
    found = iter(resolved(differences))
    gains = [{row.heading: next(found) for row in table.rows} for table in tables]
    written: list[list[str]] = []
    for table, verdicts in zip(tables, gains, strict=True):
        written.append([*_from_files(table.rows), *_verdicts(table.rows, verdicts)])
        for ours, control, difference in table.compared:
            verdict = "resolved" if next(found) else verdict_of(difference, False)
            written[-1].append(
                f"{ours} against {control}: {difference.text(sign=True)}{NARROW[table.metric][1]}, {verdict}."
            )
    return written


def headline(table: Table) -> str:
    """The verdicts of a table that is shown alone, such as "Better than the teacher: BAN-2; not resolved: BAN-1."."""
    differences = [row.gain for row in table.rows] + [compared.difference for compared in table.compared]
    found = resolved(differences)[: len(table.rows)]
    text = _grouped(table.rows, {row.heading: each for row, each in zip(table.rows, found, strict=True)})
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _from_files(rows: Sequence[Row]) -> list[str]:
    headings = [row.heading for row in rows if row.from_file]
    return [f"Weights from a file, not trained here: {', '.join(headings)}."] if headings else []


def _verdicts(rows: Sequence[Row], verdicts: dict[str, bool]) -> list[str]:
    text = _grouped(rows, verdicts)
    return [f"Paired differences, {ADJUSTED} – {text}."] if text else []


def _grouped(rows: Sequence[Row], verdicts: dict[str, bool]) -> str:
    groups: dict[str, list[str]] = {verdict: [] for verdict in (BETTER, WORSE, UNRESOLVED, EQUAL, ALONE, ONE)}
    for row in rows:
        if row.gain:
            groups[verdict_of(row.gain, verdicts[row.heading])].append(row.heading)
    return "; ".join(f"{verdict}: {', '.join(headings)}" for verdict, headings in groups.items() if headings)


def verdict_of(difference: Interval, is_resolved: bool) -> str:
    """In words."""
    if is_resolved:
        return BETTER if difference.mean < 0 else WORSE
    if difference.half_width is None:
        return ALONE if difference.count > 1 else ONE
    return UNRESOLVED if difference.half_width else EQUAL


def needed(table: Table) -> str:
    """How many pairs would give each difference a narrow interval; empty if nothing is known of the spread."""
    width, unit = NARROW[table.metric]
    wide = [(row.heading, row.gain) for row in table.rows if row.gain and (row.gain.half_width or 0.0) > width]
    named = [f"{name} {count} (now {gain.clusters})" for name, gain in wide if (count := gain.needed(width))]
    what = f"Independent pairs in all for an interval of ± {width}{unit}, at the spread so far"
    return f"{what}: {', '.join(named)}." if named else ""


def about_intervals(tables: Sequence[Table]) -> list[str]:
    """What the intervals of tables are about, if they have any."""
    intervals = [each for table in tables for row in table.rows for each in row.measured.values()]
    return about(intervals, tables[0].metric, any(table.own_splits for table in tables))


def about(intervals: Iterable[Interval], metric: str, own_splits: bool) -> list[str]:
    """What intervals are about, if there are any: one repetition has none."""
    if all(each.half_width is None for each in intervals):
        return []
    source = "training and of the split of the data" if own_splits else "training; the test set is fixed"
    arithmetic = " Means of perplexities are arithmetic." if metric == "perplexity" else ""
    return [f"± 95 % interval of the mean: only the randomness of {source}.{arithmetic}"]


def count(row: Row) -> str:
    """The repetitions; where they are not independent, the number of what they share, or of their clusters."""
    if "test" not in row.measured:
        return "0"
    test = row.measured["test"]
    if test.clusters == test.count:
        return f"{test.count}"
    if row.from_file:
        return f"1 network, {test.count} splits"
    shared = {"teacher": row.teachers, "seed": row.seeds} if row.generation else {"seed": row.seeds}
    fewer = {noun: number for noun, number in shared.items() if number < test.count}
    parts = [plural(test.count, "student" if row.generation else "run")]
    parts += [plural(number, noun) for noun, number in fewer.items()]
    parts += [plural(test.clusters, "cluster")] * ([*fewer.values()] != [test.clusters])
    return ", ".join(parts)


def pairs(difference: Interval) -> str:
    """The number of pairs, and of their clusters where pairs are not independent."""
    several = f", {plural(difference.clusters, 'cluster')}" if difference.clusters < difference.count else ""
    return f"{difference.count}{several}"
