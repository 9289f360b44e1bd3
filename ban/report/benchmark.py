"""Students beside others of their teacher and network, and what Tian et al. 2020 report (`benchmark.csv`)."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ban.display import console
from ban.plan.lineage import lineage
from ban.report.markup import Section
from ban.report.render import publish
from ban.report.results import Results
from ban.report.statistics import Interval, resolved
from ban.report.tables import is_baseline, labels, networks
from ban.report.tables import regimes as titles_of
from ban.report.verdicts import ADJUSTED, about
from ban.report.verdicts import pairs as counted
from ban.settings.compose import compose_config, compose_settings
from ban.settings.sweeps import expand
from ban.store.result import Result
from ban.store.store import Store

CONTROLS = {"labels": "against the labels alone", "kd": "against KD"}
"""Method → the heading of the differences to the networks that it trains."""
PROTOCOL = ("cifar100", 50_000, "tian")
"""Data set, training images and recipe of the published results: what has others is not composed to be compared."""


@functools.cache
def published_errors() -> dict[tuple[str, str, str], float]:
    """(Teacher, student, method) → test error in %. The method `teacher` means the teacher itself."""
    with (Path(__file__).parent / "benchmark.csv").open(encoding="utf-8") as lines:
        rows = [*csv.DictReader(lines)]
    return {(row["teacher"], row["student"], row["method"]): float(row["error_percent"]) for row in rows}


@functools.cache
def _shipped_jobs() -> dict[tuple[str | None, str, str], list[str]]:
    """(Teacher, student, method) → the words of the job of `experiment=benchmark`. A student alone has no teacher."""
    words = ["experiment=benchmark", "seed=0"]
    sweeper = compose_config(words).hydra.sweeper
    jobs = expand(sweeper["sweeps"], words, sweeper["by_scale"])
    given = [dict(word.split("=", 1) for word in job) for job in jobs]
    return {(each.get("teacher"), each["model"], each["method"]): job for each, job in zip(given, jobs, strict=True)}


@functools.cache
def _shipped_families(teacher: str | None, student: str, method: str) -> list[str]:
    """The families that a job of `experiment=benchmark` trains, the teacher's first; none if there is no such job."""
    job = _shipped_jobs().get((teacher, student, method))
    return [stage.family for stage in lineage(compose_settings(job))] if job else []


def _published(teacher: str, student: str, method: str, family: str) -> float | None:
    """The published number, if it is there and all settings of the family are those of `experiment=benchmark`."""
    number = published_errors().get((teacher, student, method))
    if number is None:
        return None
    if method == "teacher":
        shipped = _shipped_families(teacher, student, "kd")[:1]
    else:
        shipped = _shipped_families(None if method == "labels" else teacher, student, method)[-1:]
    return number if shipped == [family] else None


class Line(NamedTuple):
    """A network of a pair: its teacher, or a student."""

    heading: str
    result: Result
    """One of the family."""
    test: Interval
    gains: Sequence[Interval | None]
    """The paired difference to each of `CONTROLS`; less is better. None: it is that one, or nothing is stored."""
    published: float | None


class Pair(NamedTuple):
    """A teacher, and the students of one network in one regime."""

    teacher: Result
    student: Result
    """One of them."""
    lines: Sequence[Line]


def show_benchmark(store: Store, outputs: Path) -> None:
    """Shows and writes each stored pair of different networks: teacher, student alone, and each method's students."""
    results = Results(store)
    found = [pair for families in results.by_network().values() for pair in _pairs(families, results)]
    if not found:
        console.print("No student of another network is stored: train some with `ban experiment=benchmark`.")
        return
    students = networks([pair.student["family"] for pair in found], results)
    teachers = networks([pair.teacher["family"] for pair in found], results)
    regimes = titles_of([pair.student["family"] for pair in found], results)
    verdicts = iter(resolved([gain for pair in found for line in pair.lines for gain in line.gains]))
    sections: list[tuple[str, Section]] = []
    records: list[dict[str, Any]] = []
    for pair, student, teacher, regime in zip(found, students, teachers, regimes, strict=True):
        marks = [[next(verdicts) for _ in line.gains] for line in pair.lines]
        rows = [_texts(line, stars) for line, stars in zip(pair.lines, marks, strict=True)]
        sections.append((f"{teacher} teaches {student}", Section(regime, rows, _notes(pair, results))))
        names = {"regime": regime, "teacher": teacher, "student": student}
        records += [names | _record(line, stars) for line, stars in zip(pair.lines, marks, strict=True)]
    written = [section._replace(caption=f"{title}. {section.caption}.") for title, section in sections]
    publish(sections, records, written, outputs / "tables" / "benchmark")


def _pairs(families: Sequence[str], results: Results) -> list[Pair]:
    """The pairs among the families of one network in one regime, with its label-trained family in each."""
    members = [results.stored(family)[0] for family in families]
    alone = [member for member in members if is_baseline(member)][:1]
    taught: dict[str, list[Result]] = {}
    for member in members:
        if member["generation"] == 1 and len(member["teacher_families"]) == 1:
            taught.setdefault(member["teacher_families"][0], []).append(member)
    found: list[Pair] = []
    for family, students in taught.items():
        teacher = next(iter(results.stored(family)), None)
        if teacher and teacher["network"] != students[0]["network"]:
            students.sort(key=lambda member: (member["method"] != "kd", member["method"]))
            found.append(Pair(teacher, students[0], _lines(teacher, [*alone, *students], results)))
    return found


def _lines(teacher: Result, students: Sequence[Result], results: Results) -> list[Line]:
    last = students[-1]
    metric, alike = last["metric"], (last["dataset"], last["train_size"], last["recipe"]) == PROTOCOL
    controls = {member["method"]: member["family"] for member in reversed(students)}
    headings = labels([student["family"] for student in students], results)
    found: list[Line] = []
    for heading, member in zip(["Teacher", *headings], [teacher, *students], strict=True):
        method = member["method"] if member is not teacher else "teacher"
        label = f"{member['method_title']}-1"  # every student's generation is 1
        heading = "Labels alone" if method == "labels" else heading.replace(label, member["method_title"], 1)
        others = [None if method in ("teacher", "labels", name) else controls.get(name) for name in CONTROLS]
        gains = [results.difference([member["family"]], [other], metric) if other else None for other in others]
        published = _published(teacher["model"], last["model"], method, member["family"]) if alike else None
        if test := results.measured(member["family"], "test", metric):
            found.append(Line(heading, member, test, gains, published))
    return found


def _texts(line: Line, stars: Sequence[bool]) -> dict[str, str]:
    gains = {
        heading: f"{gain.text(sign=True)}{' *' * star}" if gain else ""
        for heading, gain, star in zip(CONTROLS.values(), line.gains, stars, strict=True)
    }
    published = f"{line.published:.2f}" if line.published is not None else ""
    return {"": line.heading, "test": line.test.text(), "n": counted(line.test), **gains, "published": published}


def _record(line: Line, stars: Sequence[bool]) -> dict[str, Any]:
    """The same in full precision."""
    result, test = line.result, line.test
    found: dict[str, Any] = {
        "method": result["method"],
        "cell": line.heading,
        "family": result["family"],
        f"test_{result['metric']}": test.mean,
        "half_width": test.half_width,
        "n": test.count,
        "clusters": test.clusters,
    }
    for name, gain, star in zip(CONTROLS, line.gains, stars, strict=True):
        found[f"gain_over_{name}"] = gain.mean if gain else None
        found[f"gain_over_{name}_half_width"] = gain.half_width if gain else None
        found[f"gain_over_{name}_n"] = gain.count if gain else 0
        found[f"gain_over_{name}_resolved"] = star
    return found | {"published": line.published}


def _notes(pair: Pair, results: Results) -> list[str]:
    repetitions = [result for line in pair.lines[1:] for result in results.stored(line.result["family"])]
    own_splits = len({result["split_seed"] for result in repetitions}) > 1
    notes = [
        "Differences are paired over seeds; less is better.",
        f"*: it is not zero, {ADJUSTED}.",
        *about([line.test for line in pair.lines], pair.student["metric"], own_splits),
    ]
    if any(line.published is not None for line in pair.lines):
        notes.append("Published: Tian et al. 2020, their code, the last epoch of one to five runs, without intervals.")
    return notes
