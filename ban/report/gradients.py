"""What the students' gradients consisted of in their last epoch (Furlanello et al. 2018, section 3.2)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ban.display import console
from ban.report.render import Section, present, write
from ban.report.results import Interval, Results
from ban.report.tables import distinct
from ban.store.result import Result
from ban.store.store import Store

HEADINGS = {
    "gradient_share_dark": "share of dark knowledge in the gradient",
    "gradient_cosine_label_dark": "cosine of its two parts",
    "gradient_cosine_whole_label": "cosine of the whole and the label's part",
    "omega": "ω: scale of the label's gradient",
    "omega_negative_share": "share of examples with ω < 0",
    "tckd": "TCKD, nats",
    "nckd": "NCKD, nats",
    "teacher_confidence": "teacher's largest probability",
    "teacher_entropy": "teacher's entropy, nats",
    "teacher_right_share": "share of examples where the teacher is right",
    "agreement": "share where student and teacher agree",
    "student_confidence": "student's largest probability",
    "cwtm_effective_share": "effective fraction of a batch under CWTM",
}
"""Diagnostics of `curves.jsonl` → the headings of their rows."""
NOTE = "Mean over the last epoch's diagnosed steps ± 95 % interval over seeds. Defined in ban/training/diagnostics.py."

Diagnostics = Mapping[str, float]


def show_gradients(store: Store, outputs: Path) -> None:
    """Shows and writes the diagnostics of the students' last epoch, network by network."""
    results = Results(store)
    sections: list[Section] = []
    records: list[dict[str, Any]] = []
    for families in results.by_network().values():
        if columns := _columns(families, results):
            first = results.stored(families[0])[0]
            title = f"{first['model_title']}. {first['regime_title']}"
            rows = [_texts(name, columns) for name in HEADINGS]
            sections.append(Section(title, rows, [NOTE]))
            present("Diagnostics", sections[-1])
            records += [{"regime": title, "stage": name, **last} for name, each in columns.items() for last in each]
    if not sections:
        console.print(
            "No stored stage has diagnostics: train with recipe.diagnosed_steps=N, the number of steps to "
            "diagnose in each epoch."
        )
        return
    write(records, sections, outputs, "diagnostics")


def _columns(families: Sequence[str], results: Results) -> dict[str, list[Diagnostics]]:
    """Heading → diagnostics of each repetition, without families that have none."""
    measured: dict[str, list[Diagnostics]] = {}
    for family in families:
        found = [_last_epoch(results.store, result) for result in results.stored(family)]
        measured |= {family: [*filter(None, found)]} if any(found) else {}
    headings = distinct([(results.stored(family)[0]["label"], family) for family in measured])
    return dict(zip(headings, measured.values(), strict=True))


def _last_epoch(store: Store, result: Result) -> Diagnostics:
    """The diagnostics of a stage's last epoch; none of a network without a teacher."""
    last = store.curves(result["signature"])[-1]
    return {
        key.removeprefix("diagnosis."): math.nan if value is None else value
        for key, value in last.items()
        if key.startswith("diagnosis.")
    }


def _texts(name: str, columns: Mapping[str, Sequence[Diagnostics]]) -> dict[str, str]:
    values = {heading: Interval.of([last[name] for last in each]).text() for heading, each in columns.items()}
    return {"": HEADINGS[name], **values}
