"""`ban report`: all results as one HTML file, and figures for papers."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ban.commands.table import planned_jobs
from ban.display import console
from ban.errors import UserError
from ban.plan.lineage import lineage, union
from ban.report.results import Results
from ban.report.tables import compare, everything
from ban.settings.compose import compose_settings
from ban.store.files import cause
from ban.store.store import Store
from ban.wording import plural

if TYPE_CHECKING:  # it needs the extra
    from ban.report.page.chart import Figure

NEEDED = {"altair": "altair", "vl_convert": "vl-convert-python"}
"""Module → package."""
FORMATS = ("svg", "pdf", "png")


def report(name: str, overrides: Sequence[str], figures: Path | None, folder: Path | None) -> None:
    """Writes the report on an experiment, or on the whole store, and the figures as files of their own.

    Raises:
        UserError: nothing is stored, a package is missing, or a folder cannot be written.
    """
    if missing := [package for module, package in NEEDED.items() if find_spec(module) is None]:
        raise UserError(f"the report needs {' and '.join(missing)}: pip install 'born-again[report]'.")
    from ban.report.page.page import page

    machine = compose_settings(overrides, folder).machine
    outputs, store = machine.outputs, Store(machine.outputs)
    if name:
        jobs = planned_jobs(name, overrides, folder)
        stages = union(lineage(job) for job in jobs)
        results = Results(store, {stage.family for stage in stages})
        tables = compare(stages, results, jobs[0].table)
    else:
        results = Results(store)
        tables = everything(results)
    if not results.by_signature:
        raise UserError(f"nothing is stored in {outputs}{f' of {name}' if name else ''}: train something first.")
    text, made = page(tables, results, f"Results of {name}" if name else "Results", machine.data_dir)
    target = outputs / "report" / f"{name or 'index'}.html"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        count = _write(made, figures) if figures else 0
    except OSError as error:
        raise UserError(f"the report could not be written: {cause(error, target.parent)}.") from error
    if figures:
        console.print(f"{plural(count, 'figure')} in {figures}, as {', '.join(FORMATS)} and csv.")
    console.print(f"The report is {target}: open it in a browser.")


def _write(made: Sequence["Figure"], folder: Path) -> int:
    """Each figure as files for papers, with its data."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    for number, figure in enumerate(made):
        target, spec = folder / f"{number:02} {figure.name}", json.dumps(figure.chart.to_dict())
        for suffix in FORMATS:
            options = {"scale": 3} if suffix == "png" else {}
            content = getattr(vl_convert, f"vegalite_to_{suffix}")(spec, **options)
            path = target.with_suffix(f".{suffix}")
            path.write_text(content, encoding="utf-8") if isinstance(content, str) else path.write_bytes(content)
        figure.data.to_csv(target.with_suffix(".csv"), index=False)
    return len(made)
