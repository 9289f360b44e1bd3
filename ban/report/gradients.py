"""What the students' gradients consisted of in their last epoch (Furlanello et al. 2018, section 3.2)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ban.display import console
from ban.report.markup import Section
from ban.report.render import publish
from ban.report.results import Results
from ban.report.statistics import Interval, Streams
from ban.report.tables import labels, networks, regimes
from ban.settings.types import Node
from ban.store.result import Result
from ban.store.store import Store
from ban.wording import plural

HEADINGS = {
    "gradient_share_dark": "share of dark knowledge in the gradient",
    "gradient_cosine_label_dark": "cosine of its two parts",
    "gradient_cosine_whole_label": "cosine of the whole and the label's part",
    "omega_median": "ω: scale of the label's gradient, median",
    "omega_5_percent": "ω, 5 % quantile",
    "omega_95_percent": "ω, 95 % quantile",
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
NOTE = (
    "Mean, or quantile, over the last epoch's diagnosed steps: mean of the trainings ± 95 % interval. Defined in "
    "ban/training/diagnostics.py."
)


class Diagnosed(NamedTuple):
    """A stage's diagnostics in its last epoch."""

    values: Mapping[str, float]
    streams: Streams


def show_gradients(store: Store, outputs: Path) -> None:
    """Shows and writes the diagnostics of the students' last epoch, network by network."""
    results = Results(store)
    sections: list[Section] = []
    records: list[dict[str, Any]] = []
    groups = [*results.by_network().values()]
    firsts = [families[0] for families in groups]
    for families, network, regime in zip(groups, networks(firsts, results), regimes(firsts, results), strict=True):
        if columns := _columns(families, results):
            title = f"{network}. {regime}"
            rows = [_texts(name, columns) for name in HEADINGS]
            sections.append(Section(title, rows, [NOTE]))
            for heading, each in columns.items():
                records += [{"regime": title, "stage": heading, **stage.values} for stage in each]
    students = [
        result
        for result in results.by_signature.values()
        if result["teachers"] and not result["prepares"] and _has_all_labels(store.description(result["signature"]))
    ]
    _tell_missing([student for student in students if not _diagnostics(student, results)])
    if sections:
        shown = [("Diagnostics", section) for section in sections]
        publish(shown, records, sections, outputs / "tables" / "diagnostics")
    elif not students:
        console.print("No student is stored: train one with recipe.diagnosed_steps=N, the steps to diagnose per epoch.")


def _has_all_labels(description: Node) -> bool:
    """Whether a stage's gradient could be decomposed: not where some examples have no label."""
    dataset = description["dataset"]
    return not (dataset.get("unlabelled") or dataset.get("munge"))


def _tell_missing(students: Sequence[Result]) -> None:
    """Says how to get the diagnostics of stages that were trained without them: the store would answer the command."""
    if students:
        signatures = " ".join(student["signature"] for student in students)
        console.print(
            f"{plural(len(students), 'student')} without diagnostics: {signatures}. They are recorded during training "
            "only: remove such a stage with `ban stages remove SIGNATURE`, then train it again with "
            "recipe.diagnosed_steps=N, the steps to diagnose per epoch."
        )


def _columns(families: Sequence[str], results: Results) -> dict[str, list[Diagnosed]]:
    """Heading → diagnostics of each repetition, without families that have none."""
    measured: dict[str, list[Diagnosed]] = {}
    for family in families:
        stages = [(_diagnostics(result, results), results.streams(result)) for result in results.stored(family)]
        if found := [Diagnosed(values, streams) for values, streams in stages if values]:
            measured[family] = found
    return dict(zip(labels([*measured], results), measured.values(), strict=True))


def _diagnostics(result: Result, results: Results) -> dict[str, float]:
    """None of a network without a teacher."""
    last = results.last_epoch(result)
    return {key.removeprefix("diagnosis."): value for key, value in last.items() if key.startswith("diagnosis.")}


def _texts(name: str, columns: Mapping[str, Sequence[Diagnosed]]) -> dict[str, str]:
    """A row; a version that did not record the diagnostic leaves its cell empty."""
    texts = {"": HEADINGS[name]}
    for heading, stages in columns.items():
        found = [(stage.values[name], stage.streams) for stage in stages if name in stage.values]
        texts[heading] = Interval.of(*zip(*found, strict=True)).text() if found else ""
    return texts
