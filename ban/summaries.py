"""What all stored results say together: which system gains how much, and what their gradients were made of."""

import csv
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ban import tables
from ban.display import console
from ban.results import Interval, Results
from ban.store import Store

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
    results = Results(store)
    systems = [system for regime in _regimes(results).values() for system in _systems(regime, results)]
    if not systems:
        console.print("No finished system with a label-trained network beside it yet.")
        return
    parts = []
    for title in dict.fromkeys(system["regime"] for system in systems):
        here = [system for system in systems if system["regime"] == title]
        frame = pd.DataFrame([system["shown"] for system in here])
        notes = _sources(here)
        tables.present("Systems", title, frame, notes)
        parts.append((title, frame, notes))
    records = pd.DataFrame([{key: value for key, value in each.items() if key != "shown"} for each in systems])
    tables.write(records, parts, outputs, "methods")


def _regimes(results: Results) -> dict[tuple[str, str], list[str]]:
    """(Regime, network) → families."""
    regimes: dict[tuple[str, str], list[str]] = {}
    for family, members in results.families.items():
        if not members[0]["prepares"]:
            regimes.setdefault((members[0]["regime"], members[0]["network"]), []).append(family)
    return regimes


def _systems(families: list[str], results: Results) -> Iterator[dict[str, Any]]:
    members = [results.stored(family)[0] for family in families]
    for member in sorted(members, key=lambda member: (member["method"], member["generation"])):
        alone = _alone(member, members)
        if alone and member["method"] != "labels":
            yield _system(member, alone, results)


def _alone(member: Result, members: Sequence[Result]) -> str | None:
    """The family of the network trained on the labels alone, rather while the same unlabelled images pass by."""
    baselines = [each for each in members if tables.is_baseline(each)]
    alike = [each for each in baselines if each["unlabelled"] == member["unlabelled"]]
    return next((each["family"] for each in [*alike, *baselines]), None)


def _system(result: Result, alone: str, results: Results) -> dict[str, Any]:
    metric = result["metric"]
    baseline, student = (Interval.of([*results.tested([each], metric).values()]) for each in (alone, result["family"]))
    gain = results.difference([result["family"]], [alone], metric)
    teacher = results.lineage(result)[-1]
    cohort = f"cohort of {result['cohort']}" if result["cohort"] > 1 else "itself"
    published = published_gains().get((result["method"], metric))
    shown = {
        "system": result["label"],
        "teacher": cohort if teacher is result else teacher["model_title"],
        "student": result["model_title"],
        "labels alone": baseline.text(),
        "with the system": student.text(),
        "gain": gain.text(sign=True) + (" *" if gain.resolved else "") if gain else "not paired",
        "published gain": f"{published.gain:+.2f} ({published.setup})" if published else "",
        "n": f"{student.count}",
    }
    numbers = {"baseline": baseline.mean, "student": student.mean, "gain": gain.mean if gain else None}
    widths = {"gain_half_width": gain.half_width if gain else None, "n": student.count}
    named = {"regime": result["regime_title"], "system": result["label"], "method": result["method"], "metric": metric}
    return named | {"network": result["model_title"]} | numbers | widths | {"shown": shown}


def _sources(systems: list[dict[str, Any]]) -> list[str]:
    notes = ["Differences to the label-trained network of the same seed ± 95 % interval; * where it leaves zero out."]
    keys = [(system["system"], (system["method"], system["metric"])) for system in systems]
    cited = [f"{name}: {published_gains()[key].source}" for name, key in keys if key in published_gains()]
    return [*notes, f"Published gains are of other networks, data and recipes. {'; '.join(cited)}."] if cited else notes


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
        console.print("No stored stage has diagnostics: recipes of images have them (recipe.diagnosed_steps).")
        return
    tables.write(pd.DataFrame(records), parts, outputs, "diagnostics")


def _last_epoch(store: Store, result: Result) -> dict[str, float]:
    """The diagnostics of a stage's last epoch; none of a network without a teacher."""
    lines = (store.folder(result["signature"]) / "curves.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    return {key.removeprefix("diagnosis."): value for key, value in last.items() if key.startswith("diagnosis.")}


def _diagnosed(name: str, columns: Mapping[str, list[dict[str, float]]]) -> dict[str, str]:
    return {"": SHOWN[name]} | {
        label: Interval.of([last[name] for last in measured]).text() for label, measured in columns.items()
    }
