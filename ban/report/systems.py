"""What all stored results say together: which system gains how much, and what their gradients were made of."""

import csv
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ban.display import console
from ban.report import tables
from ban.report.results import Interval, Pair, Results
from ban.store.store import Store

SHOWN = {
    "gradient_share_dark": "share of dark knowledge in the gradient",
    "gradient_cosine_label_dark": "cosine of its two parts",
    "gradient_cosine_whole_label": "cosine of the whole and the label's part",
    "omega": "ω: what scales the label's gradient",
    "omega_negative_share": "share of examples with ω < 0",
    "tckd": "TCKD, nats",
    "nckd": "NCKD, nats",
    "teacher_confidence": "teacher's largest probability",
    "teacher_entropy": "teacher's entropy, nats",
    "teacher_right_share": "share of examples where the teacher is right",
    "agreement": "share where student and teacher agree",
    "student_confidence": "student's largest probability",
    "cwtm_effective_share": "part of a batch that counts for CWTM",
}
"""Diagnostics of `curves.jsonl` → how the table calls them."""

Result = Mapping[str, Any]


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


def methods(store: Store, outputs: Path) -> None:
    """Shows and writes each system that is stored beside the label-trained network of its kind, regime by regime."""
    results, parts, records = Results(store), [], []
    regimes: dict[str, list[System]] = {}
    for (regime, _), families in _regimes(results).items():
        regimes.setdefault(regime, []).extend(_systems(families, results))
    for systems in filter(None, regimes.values()):
        title, notes = systems[0].result["regime_title"], _sources(systems)
        frame = pd.DataFrame([_shown(system) for system in systems])
        tables.present("Systems", title, frame, notes)
        parts.append((title, frame, notes))
        records += [_record(system) for system in systems]
    if not parts:
        console.print("No finished system with a label-trained network beside it yet.")
        return
    tables.write(pd.DataFrame(records), parts, outputs, "methods")


def _regimes(results: Results) -> dict[tuple[str, str], list[str]]:
    """(Regime, network) → families."""
    regimes: dict[tuple[str, str], list[str]] = {}
    for family, members in results.families.items():
        if not members[0]["prepares"]:
            regimes.setdefault((members[0]["regime"], members[0]["network"]), []).append(family)
    return regimes


class System(NamedTuple):
    """A family of students beside the label-trained networks of the same seeds."""

    name: str
    result: Result
    """One of the family."""
    teacher: str
    pairs: Sequence[Pair]
    published: Published | None

    @property
    def gain(self) -> Interval:
        """Of the pairs; less is better."""
        return Interval.of([pair.ours - pair.theirs for pair in self.pairs])


def _systems(families: Sequence[str], results: Results) -> list[System]:
    members = [results.stored(family)[0] for family in families]
    systems = []
    for member in sorted(members, key=lambda member: (member["method"], member["generation"])):
        alone = _alone(member, members, results)
        pairs = results.pairs([member["family"]], [alone], member["metric"]) if alone else []
        if pairs and member["method"] != "labels":
            published = published_gains().get((member["method"], member["metric"]))
            reported = published if member["generation"] < 2 else None
            systems.append(System(member["label"], member, _teacher(member, results), pairs, reported))
    names = [system.name for system in systems]
    return [s if names.count(s.name) == 1 else s._replace(name=f"{s.name} [{s.result['family'][:6]}]") for s in systems]


def _alone(member: Result, members: Sequence[Result], results: Results) -> str | None:
    """The family of the network trained on the labels alone, rather while the same unlabelled images pass by.

    Of several such, with other settings of the labels' term, the one with most repetitions.
    """
    baselines = [each for each in members if tables.is_baseline(each)]
    alike = [each for each in baselines if each["unlabelled"] == member["unlabelled"]] or baselines
    families = sorted((each["family"] for each in alike), key=lambda family: (-len(results.stored(family)), family))
    return families[0] if families else None


def _teacher(member: Result, results: Results) -> str:
    """Who taught the first generation."""
    first = results.lineage(member)[-1]
    if first["teachers"]:
        return "no longer stored"
    several = f"{len(member['teachers'])} × " if len(member["teachers"]) > 1 else ""
    if first is not member:
        return several + first["model_title"]
    return f"cohort of {member['cohort']}" if member["cohort"] > 1 else "itself"


def _shown(system: System) -> dict[str, str]:
    gain, published = system.gain, system.published
    controls = len({pair.signature for pair in system.pairs})
    return {
        "system": system.name,
        "generation 0": system.teacher,
        "student": system.result["model_title"],
        "labels alone": Interval.of([pair.theirs for pair in system.pairs]).text(),
        "with the system": Interval.of([pair.ours for pair in system.pairs]).text(),
        "gain": gain.text(sign=True) + " *" * gain.resolved,
        "published gain": f"{published.gain:+.2f} ({published.setup})" if published else "",
        "n": f"{gain.count}" if controls == gain.count else f"{gain.count}, {controls} controls",
    }


def _record(system: System) -> dict[str, Any]:
    """The same in full precision."""
    result, gain = system.result, system.gain
    named = {"regime": result["regime_title"], "family": result["family"], "system": system.name}
    means = {
        "baseline": Interval.of([pair.theirs for pair in system.pairs]).mean,
        "student": Interval.of([pair.ours for pair in system.pairs]).mean,
        "gain": gain.mean,
        "gain_half_width": gain.half_width,
        "n": gain.count,
        "controls": len({pair.signature for pair in system.pairs}),
    }
    return named | {"method": result["method"], "network": result["model_title"], "teacher": system.teacher} | means


def _sources(systems: Sequence[System]) -> list[str]:
    notes = ["Differences to the label-trained network of the same seed ± 95 % interval; * where it leaves zero out."]
    cited = dict.fromkeys(f"{s.name}: {s.published.source}" for s in systems if s.published)
    others = "Published gains are of other networks, data, recipes and perhaps settings."
    return [*notes, f"{others} {'; '.join(cited)}."] if cited else notes


def diagnostics(store: Store, outputs: Path) -> None:
    """Shows and writes what the students' gradients were made of in their last epoch."""
    results, parts, records = Results(store), [], []
    for families in _regimes(results).values():
        columns = {}
        for family in families:
            measured = [last for result in results.stored(family) if (last := _last_epoch(store, result))]
            if measured:
                label = results.stored(family)[0]["label"]
                columns[label if label not in columns else f"{label} [{family[:6]}]"] = measured
        if columns:
            first = results.stored(families[0])[0]
            title = f"{first['model_title']}. {first['regime_title']}"
            frame = pd.DataFrame([_diagnosed(name, columns) for name in SHOWN])
            notes = [
                "Means over the last epoch's diagnosed steps ± 95 % interval over seeds; defined in ban/diagnostics.py."
            ]
            tables.present("Diagnostics", title, frame, notes)
            parts.append((title, frame, notes))
            records += [{"regime": title, "stage": name} | last for name, all_ in columns.items() for last in all_]
    if not parts:
        console.print(
            "No stored stage has diagnostics: say recipe.diagnosed_steps=1, or another number of steps an epoch."
        )
        return
    tables.write(pd.DataFrame(records), parts, outputs, "diagnostics")


def _last_epoch(store: Store, result: Result) -> dict[str, float]:
    """The diagnostics of a stage's last epoch; none of a network without a teacher."""
    lines = store.file(result["signature"], "curves.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    return {key.removeprefix("diagnosis."): value for key, value in last.items() if key.startswith("diagnosis.")}


def _diagnosed(name: str, columns: Mapping[str, list[dict[str, float]]]) -> dict[str, str]:
    return {"": SHOWN[name]} | {
        label: Interval.of([last[name] for last in measured]).text() for label, measured in columns.items()
    }
