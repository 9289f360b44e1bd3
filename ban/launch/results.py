"""`ban table`: an experiment's cells from the store, planned but not run."""

from collections.abc import Sequence
from pathlib import Path

from ban import tables
from ban.config import compose_settings
from ban.launch.union import expand
from ban.plan import lineage, union
from ban.store import Store


def table(name: str | None, overrides: Sequence[str]) -> None:
    """Shows and writes a table: of the paper (a number), of an experiment, or of everything in the store.

    Raises:
        UserError: there is no such experiment.
    """
    if name is None:
        job, _ = compose_settings(overrides)
        outputs = Path(job["machine"]["outputs"]).expanduser()
        tables.show(tables.everything(Store(outputs)), outputs, "all")
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
    return [compose_settings(job)[0] for job in expand(sweeps, given)]
