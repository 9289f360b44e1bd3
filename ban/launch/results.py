"""`ban table`: an experiment's cells from the store, planned but not run."""

from collections.abc import Sequence
from pathlib import Path

from ban import tables
from ban.config import compose_settings
from ban.launch.union import expand
from ban.plan import Stage, lineage, union
from ban.store import Store


def table(name: str | None, overrides: Sequence[str]) -> None:
    """Shows and writes a table: of the paper (a number), of an experiment, or of everything in the store.

    Raises:
        UserError: there is no such experiment.
    """
    if name is None:
        job, _ = compose_settings(overrides)
        outputs = Path(job["machine"]["outputs"])
        tables.show(tables.everything(Store(outputs)), outputs, "all")
        return
    experiment = f"table{name}" if name.isdigit() else name
    jobs = _jobs(experiment, overrides)
    outputs, layout = Path(jobs[0]["machine"]["outputs"]), jobs[0]["table"] or {}
    stages = union(lineage(job) for job in jobs)
    found = tables.compare(stages, Store(outputs), layout)
    number = layout.get("number")
    if number is None:
        tables.show(found, outputs, experiment)
    else:
        tables.show_paper_table(found, number, _as_published(experiment, stages), outputs)


def _jobs(experiment: str, overrides: Sequence[str]) -> list[dict]:
    """The settings of the experiment's jobs for one seed: tables gather all seeds that are stored."""
    given = [f"experiment={experiment}", *overrides]
    _, hydra = compose_settings(given)
    sweeps = {
        name: {key: value for key, value in product.items() if key != "seed"}
        for name, product in hydra["sweeper"]["sweeps"].items()
    }
    return [compose_settings(job)[0] for job in expand(sweeps, given)]


def _as_published(experiment: str, stages: Sequence[Stage]) -> bool:
    """Whether recipe and data are those of the experiment without any override."""
    published, _ = compose_settings([f"experiment={experiment}"])
    regime = lineage(published)[0].regime
    return all(stage.regime == regime for stage in stages)
