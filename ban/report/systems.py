"""Which system gains how much over the labels alone, and what its authors report (`published_gains.csv`)."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ban.display import console
from ban.report.markup import Section
from ban.report.render import publish
from ban.report.results import Pair, Results
from ban.report.statistics import Interval, resolved
from ban.report.tables import is_baseline, labels, networks
from ban.report.tables import regimes as titles_of
from ban.report.verdicts import ADJUSTED, about, pairs
from ban.store.result import Result, coverage, unknown_percent
from ban.store.store import Store
from ban.wording import plural


class Published(NamedTuple):
    """A gain that others report, for a student on the network without a teacher."""

    gain: float
    setup: str
    source: str


@functools.cache
def published_gains() -> dict[tuple[str, str], Published]:
    """(Method, metric) → what its authors report: elsewhere, on their networks and data."""
    with (Path(__file__).parent / "published_gains.csv").open(encoding="utf-8") as lines:
        rows = [*csv.DictReader(lines)]
    return {(row["method"], row["of"]): Published(float(row["gain"]), row["setup"], row["source"]) for row in rows}


class System(NamedTuple):
    """A family of students, and the label-trained networks of the same seeds."""

    heading: str
    result: Result
    """One of the family."""
    student: str
    """The title of its network."""
    teacher: str
    pairs: Sequence[Pair]
    published: Published | None

    @property
    def gain(self) -> Interval:
        """Of the pairs; less is better."""
        return self._interval([pair.difference for pair in self.pairs])

    @property
    def alone(self) -> Interval:
        """Of the label-trained networks."""
        return self._interval([pair.theirs for pair in self.pairs])

    @property
    def taught(self) -> Interval:
        """Of the students."""
        return self._interval([pair.ours for pair in self.pairs])

    def _interval(self, values: Sequence[float]) -> Interval:
        return Interval.of(values, [pair.streams for pair in self.pairs])

    @property
    def controls(self) -> int:
        """The number of different label-trained networks."""
        return len({pair.signature for pair in self.pairs})


def show_systems(store: Store, outputs: Path) -> None:
    """Shows and writes each stored system with the label-trained network of its kind, regime by regime."""
    results = Results(store)
    regimes: dict[str, list[System]] = {}
    for (regime, _), families in results.by_network().items():
        regimes.setdefault(regime, []).extend(_systems(families, results))
    sections: list[Section] = []
    records: list[dict[str, Any]] = []
    shown = [_with_networks(systems, results) for systems in regimes.values() if systems]
    titles = titles_of([systems[0].result["family"] for systems in shown], results)
    found = iter(resolved([system.gain for systems in shown for system in systems]))  # one table in several parts
    for systems, title in zip(shown, titles, strict=True):
        verdicts = [next(found) for _ in systems]
        rows = [_texts(system, verdict) for system, verdict in zip(systems, verdicts, strict=True)]
        sections.append(Section(title + coverage(unknown_percent(systems[0].result)), rows, _notes(systems)))
        records += [{"regime": title, **_record(*each)} for each in zip(systems, verdicts, strict=True)]
    if not sections:
        console.print(
            "No finished system has a finished label-trained network to compare it with: train method=labels too."
        )
        return
    publish([("Systems", section) for section in sections], records, sections, outputs / "tables" / "methods")


def _with_networks(systems: Sequence[System], results: Results) -> list[System]:
    """The systems of one regime, with what tells networks of one title apart."""
    students = networks([system.result["family"] for system in systems], results)
    return [system._replace(student=student) for system, student in zip(systems, students, strict=True)]


def _systems(families: Sequence[str], results: Results) -> list[System]:
    """The systems among the families of one network in one regime."""
    members = [results.stored(family)[0] for family in families]
    systems: list[System] = []
    for member in sorted(members, key=lambda member: (member["method"], member["generation"])):
        baseline = _baseline(member, members, results)
        pairs = results.pairs([member["family"]], [baseline], member["metric"]) if baseline else []
        if pairs and member["method"] != "labels" and "weights" not in member:
            published = published_gains().get((member["method"], member["metric"]))
            reported = published if member["generation"] < 2 else None
            systems.append(
                System(member["label"], member, member["model_title"], _teacher(member, results), pairs, reported)
            )
    headings = labels([system.result["family"] for system in systems], results)
    return [system._replace(heading=heading) for system, heading in zip(systems, headings, strict=True)]


def _baseline(member: Result, members: Sequence[Result], results: Results) -> str | None:
    """The family of the network trained on the labels alone, preferably one that saw the same unlabelled examples.

    Of several with other settings of the label term, the one with most repetitions.
    """
    baselines = [each for each in members if is_baseline(each)]
    alike = [each for each in baselines if each["unlabelled"] == member["unlabelled"]] or baselines
    families = sorted((each["family"] for each in alike), key=lambda family: (-len(results.stored(family)), family))
    return families[0] if families else None


def _teacher(member: Result, results: Results) -> str:
    """The teacher of the first generation, in words."""
    first = results.lineage(member)[-1]
    if first["teachers"]:
        return "no longer stored"
    several = f"{len(member['teachers'])} × " if len(member["teachers"]) > 1 else ""
    if first is not member:
        return several + first["model_title"] + (f" from {first['weights']['file']}" if "weights" in first else "")
    return f"cohort of {member['cohort']}" if member["cohort"] > 1 else "itself"


def _texts(system: System, is_resolved: bool) -> dict[str, str]:
    published, controls = system.published, system.controls
    fewer = f", {plural(controls, 'control')}" if controls < system.gain.count else ""
    return {
        "system": system.heading,
        "teacher": system.teacher,
        "student": system.student,
        "labels alone": system.alone.text(),
        "with the system": system.taught.text(),
        "gain": system.gain.text(sign=True) + " *" * is_resolved,
        "published gain": f"{published.gain:+.2f} ({published.setup})" if published else "",
        "pairs": pairs(system.gain) + fewer,
    }


def _record(system: System, is_resolved: bool) -> dict[str, Any]:
    """The same in full precision."""
    result, gain = system.result, system.gain
    return {
        "family": result["family"],
        "system": system.heading,
        "method": result["method"],
        "network": system.student,
        "teacher": system.teacher,
        "baseline": system.alone.mean,
        "student": system.taught.mean,
        "gain": gain.mean,
        "gain_half_width": gain.half_width,
        "resolved": is_resolved,
        "n": gain.count,
        "clusters": gain.clusters,
        "controls": system.controls,
        **{f"{split}_unknown_percent": value for split, value in unknown_percent(result).items()},
    }


def _notes(systems: Sequence[System]) -> list[str]:
    own_splits = len({pair.split for system in systems for pair in system.pairs}) > 1
    notes = [
        "Gain: difference to the label-trained network of the same seed ± 95 % interval.",
        f"*: it is not zero, {ADJUSTED}.",
        *about([system.gain for system in systems], systems[0].result["metric"], own_splits),
    ]
    cited = dict.fromkeys(f"{s.heading}: {s.published.source}" for s in systems if s.published)
    others = "Published gains were measured with other networks, data and recipes, and perhaps other settings."
    return [*notes, f"{others} {'; '.join(cited)}."] if cited else notes
