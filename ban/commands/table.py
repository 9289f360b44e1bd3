"""`ban table`: results of an experiment, with the paper's numbers for its tables, or of the whole store."""

from collections.abc import Sequence
from pathlib import Path

from ban.errors import UserError
from ban.plan.lineage import lineage, union
from ban.report.benchmark import show_benchmark
from ban.report.gradients import show_gradients
from ban.report.paper import is_as_published, show_paper_table
from ban.report.render import show
from ban.report.results import Results
from ban.report.systems import show_systems
from ban.report.tables import compare, everything
from ban.settings.compose import compose_settings
from ban.settings.schema import Settings
from ban.settings.sweeps import jobs_of
from ban.store.store import Store
from ban.wording import close


def _show_everything(store: Store, outputs: Path) -> None:
    show(everything(Results(store)), outputs, "all")


OF_THE_STORE = {
    "": _show_everything,
    "methods": show_systems,
    "diagnostics": show_gradients,
    "benchmark": show_benchmark,
}


def table(name: str, overrides: Sequence[str], folder: Path | None = None) -> None:
    """Shows and writes a table: of the paper (a number), of an experiment, or of all that is in the store.

    Raises:
        UserError: there is no such experiment.
    """
    if name in OF_THE_STORE:
        outputs = compose_settings(overrides, folder).machine.outputs
        OF_THE_STORE[name](Store(outputs), outputs)
        return
    experiment = f"table{name}" if name.isdigit() else name
    try:
        jobs = planned_jobs(experiment, overrides, folder)
    except UserError:
        if meant := close(name, filter(None, OF_THE_STORE)):
            raise UserError(f"there is no table '{name}': did you mean `ban table {meant}`?") from None
        raise
    outputs, layout = jobs[0].machine.outputs, jobs[0].table
    stages = union(lineage(job) for job in jobs)
    tables = compare(stages, Results(Store(outputs)), layout)
    if layout is None or layout.number is None:
        show(tables, outputs, experiment)
        return
    shipped = planned_jobs(experiment, [], folder) if overrides else jobs
    published = {stage.family for job in shipped for stage in lineage(job) if is_as_published(stage)}
    show_paper_table(tables, layout, published, outputs)


def planned_jobs(experiment: str, overrides: Sequence[str], folder: Path | None = None) -> list[Settings]:
    """The settings of the experiment's jobs for one seed: tables gather all stored seeds."""
    return jobs_of([f"experiment={experiment}", *overrides], folder, all_seeds=False)
