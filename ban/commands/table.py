"""`ban table`: an experiment's cells from the store, planned but not run."""

from collections.abc import Sequence
from pathlib import Path

from ban.plan.lineage import lineage, union
from ban.report import systems as summaries
from ban.report import tables
from ban.settings.compose import compose_config, compose_settings
from ban.settings.schema import Settings
from ban.settings.sweeps import expand
from ban.store.store import Store


def _everything(store: Store, outputs: Path) -> None:
    tables.show(tables.everything(store), outputs, "all")


OF_THE_STORE = {"": _everything, "methods": summaries.methods, "diagnostics": summaries.diagnostics}


def table(name: str, overrides: Sequence[str], folder: Path | None = None) -> None:
    """Shows and writes a table: of the paper (a number), of an experiment, or of what is in the store.

    Raises:
        UserError: there is no such experiment.
    """
    if name in OF_THE_STORE:
        outputs = compose_settings(overrides, folder).machine.outputs
        OF_THE_STORE[name](Store(outputs), outputs)
        return
    experiment = f"table{name}" if name.isdigit() else name
    jobs = planned_jobs(experiment, overrides, folder)
    outputs, layout = jobs[0].machine.outputs, jobs[0].table or {}
    stages = union(lineage(job) for job in jobs)
    found = tables.compare(stages, Store(outputs), layout)
    if "number" not in layout:
        tables.show(found, outputs, experiment)
    else:
        published = {
            stage.family
            for job in (planned_jobs(experiment, [], folder) if overrides else jobs)
            for stage in lineage(job)
        }
        as_published = all(stage.family in published for stage in stages)
        tables.show_paper_table(found, layout, as_published, outputs)


def planned_jobs(experiment: str, overrides: Sequence[str], folder: Path | None = None) -> list[Settings]:
    """The settings of the experiment's jobs for one seed: tables gather all seeds that are stored."""
    given = [f"experiment={experiment}", *overrides]
    sweeper = compose_config(given, folder).hydra.sweeper
    sweeps = {
        name: {key: value for key, value in product.items() if key != "seed"}
        for name, product in sweeper.sweeps.items()
    }
    return [compose_settings(job, folder) for job in expand(sweeps, given, sweeper["at"])]
