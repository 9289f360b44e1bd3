"""`ban table`: an experiment's cells from the store, planned but not run."""

from collections.abc import Sequence
from pathlib import Path

from ban.plan.plan import lineage, union
from ban.report import systems as summaries
from ban.report import tables
from ban.settings.config import compose_settings
from ban.settings.sweeps import expand
from ban.store.store import Store


def _everything(store: Store, outputs: Path) -> None:
    tables.show(tables.everything(store), outputs, "all")


OF_THE_STORE = {"": _everything, "methods": summaries.methods, "diagnostics": summaries.diagnostics}


def table(name: str, overrides: Sequence[str]) -> None:
    """Shows and writes a table: of the paper (a number), of an experiment, or of what is in the store.

    Raises:
        UserError: there is no such experiment.
    """
    if name in OF_THE_STORE:
        job, _ = compose_settings(overrides)
        outputs = Path(job["machine"]["outputs"]).expanduser()
        OF_THE_STORE[name](Store(outputs), outputs)
        return
    experiment = f"table{name}" if name.isdigit() else name
    jobs = _jobs(experiment, overrides)
    outputs, layout = Path(jobs[0]["machine"]["outputs"]).expanduser(), jobs[0]["table"] or {}
    stages = union(lineage(job) for job in jobs)
    found = tables.compare(stages, Store(outputs), layout)
    if "number" not in layout:
        tables.show(found, outputs, experiment)
    else:
        published = {stage.family for job in (_jobs(experiment, []) if overrides else jobs) for stage in lineage(job)}
        as_published = all(stage.family in published for stage in stages)
        tables.show_paper_table(found, layout, as_published, outputs)


def _jobs(experiment: str, overrides: Sequence[str]) -> list[dict]:
    """The settings of the experiment's jobs for one seed: tables gather all seeds that are stored."""
    given = [f"experiment={experiment}", *overrides]
    _, hydra = compose_settings(given)
    sweeps = {
        name: {key: value for key, value in product.items() if key != "seed"}
        for name, product in hydra["sweeper"]["sweeps"].items()
    }
    return [compose_settings(job)[0] for job in expand(sweeps, given, hydra["sweeper"]["at"])]
