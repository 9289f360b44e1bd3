"""Plans the jobs of a command, trains the missing stages, and shows the result.

Imports torch only if a stage is missing, or if no earlier command has checked these settings.
"""

import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ban.display import busy, console, ready
from ban.errors import Interrupted, UserError
from ban.events import Failures, Report
from ban.launch import overview
from ban.launch.estimate import operations
from ban.launch.journal import Journal
from ban.launch.live import Display
from ban.plan.lineage import lineage, union
from ban.plan.order import by_longest_path
from ban.plan.stage import Stage
from ban.report.render import show
from ban.report.results import Results
from ban.report.tables import compare
from ban.settings.schema import Settings
from ban.settings.types import plain
from ban.store.remembered import key, memory
from ban.store.store import Store
from ban.trackers.tracking import check_installed
from ban.training.costs import rehearse
from ban.training.place import Place, place_of
from ban.wording import plural


class Executor(Protocol):
    """Trains missing stages somewhere."""

    @property
    def description(self) -> str:
        """Where it trains, for people."""
        ...

    @property
    def starting(self) -> str:
        """What happens until the first stage starts, for people."""
        ...

    @property
    def device_type(self) -> str:
        """The kind of device that it trains on, `cpu` or `cuda`."""
        ...

    def check(self, missing: Sequence[Stage]) -> None:
        """Refuses what cannot be trained there, and asks before a costly plan. Downloads the data to this machine.

        Raises:
            UserError: a stage cannot be trained there, nobody confirmed, or data are missing.
        """
        ...

    def train(self, missing: Sequence[Stage], journal: Journal, report: Report) -> Failures | None:
        """Trains all stages that it can; None: they are trained independently of this process.

        Raises:
            Interrupted: a signal arrived, and checkpoints are saved.
        """
        ...


MakeExecutor = Callable[[Settings], Executor]
"""Called only if a stage is missing."""


def execute(
    jobs: Sequence[Settings], make_executor: MakeExecutor, prepare: Callable[[Sequence[Stage]], None] = lambda _: None
) -> None:
    """Trains the stages of the jobs that the store lacks, and shows the table.

    Args:
        jobs: the settings of each.
        make_executor: returns what trains.
        prepare: is called as soon as it is known that there is something to train, before it is checked.

    Raises:
        SystemExit: with a message and status 1 after a failure, with 128 + n after signal n.
    """
    store = Store(jobs[0].machine.outputs)
    journal = Journal(store)
    try:
        failures = _execute(jobs, make_executor, prepare, journal)
    except UserError as error:
        raise SystemExit(f"ban: {error}") from None
    except OSError as error:
        raise SystemExit(f"ban: {error.filename or 'a file'}: {error.strerror or error}.") from error
    except Interrupted as stop:
        name = signal.Signals(stop.signal_number).name
        console.print(f"Stopped by {name}. Checkpoints are saved; the same command resumes.")
        raise SystemExit(128 + stop.signal_number) from None
    if failures:
        reasons = "\n".join(f"  {reason}\n    log: {journal.log(name)}" for name, reason in failures.items())
        raise SystemExit(f"ban: {plural(len(failures), 'stage')} failed; the same command tries again.\n{reasons}")


def _execute(
    jobs: Sequence[Settings], make_executor: MakeExecutor, prepare: Callable[[Sequence[Stage]], None], journal: Journal
) -> Failures:
    first, store = jobs[0], journal.store
    common = ("machine", "dry_run", "yes", "table")
    if any(getattr(job, part) != getattr(first, part) for job in jobs for part in common):
        raise UserError("a sweep runs on one machine: machine, dry_run, yes and table cannot be swept over.")
    check_installed(first.machine.trackers)
    busy("checking the plan")
    lineages = [lineage(job) for job in jobs]
    stages = union(lineages)
    missing = [stage for stage in stages if not store.has(stage.signature)]
    if missing and not first.dry_run:
        prepare(missing)
    _check_arguments(jobs)
    if first.dry_run:
        place = place_of(first.machine)
        _check_precision(missing, place)
        _rehearse(stages, place.kind)
        overview.show(lineages, store, place)
        return {}
    started = time.monotonic()
    if missing:
        busy("loading torch")
        failures = _train(stages, missing, make_executor(first), journal, first.machine.log_seconds)
    else:
        failures = _tell_stored(stages, store)
    if failures is None:
        return {}
    if not failures or any(store.has(stage.signature) for stage in stages):
        results = Results(store)
        tables = compare(stages, results, first.table)
        show(tables, store.root)
        overview.tell_others(stages, results)
        if missing and not failures:
            console.print(overview.end(stages, tables, len(missing), time.monotonic() - started))
    return failures


def _check_arguments(jobs: Sequence[Settings]) -> None:
    """Checks the arguments of all constructors, unless an earlier command has checked the same ones."""
    known = memory("arguments")
    unchecked = {name: job for job in jobs if (name := _arguments_of(job)) not in known.found}
    if unchecked:
        busy("loading torch")
        from ban.training.arguments import check_arguments

        busy("checking the plan")
        for job in unchecked.values():
            check_arguments(job)
        known.add(dict.fromkeys(unchecked, True))


PARTS = ("dataset", "model", "method", "recipe", "teacher", "peers")
"""The parts of the settings that name classes and functions."""


def _arguments_of(job: Settings) -> str:
    """A hash of all that constructors get, without the seeds, whose type is checked already."""
    node = {part: plain(getattr(job, part)) for part in PARTS}
    del node["teacher"]["seed"]
    if job.dataset.function.startswith("ban."):
        node["dataset"].pop("split_seed", None)
    return key(node)


def _rehearse(stages: Sequence[Stage], device_type: str) -> None:
    for stage in stages:
        rehearse(stage, device_type)
    ready()


def _check_precision(missing: Sequence[Stage], place: Place) -> None:
    if any(stage.recipe.precision != "fp32" for stage in missing):
        from ban.launch.execute import check_precision
        from ban.training.device import Device

        check_precision(missing, Device(place.name, place.threads))


def _tell_stored(stages: Sequence[Stage], store: Store) -> Failures:
    """Says what the stages are, where none is missing."""
    ready()
    console.print(f"{overview.counts(stages, [], store)}. Results: {store.root}")
    _tell(stages, store)
    return {}


def _tell(stages: Sequence[Stage], store: Store) -> None:
    overview.regimes(stages)
    overview.tell_weights(stages, store)
    overview.tell_unrecorded(stages, store)


def _train(
    stages: Sequence[Stage], missing: Sequence[Stage], executor: Executor, journal: Journal, log_seconds: float
) -> Failures | None:
    """Trains the missing ones of the stages. Failures are named as the display names their stages."""
    store = journal.store
    _rehearse(missing, executor.device_type)
    costs = {stage.signature: operations(stage) for stage in missing}
    executor.check(missing)
    console.print(f"{overview.counts(stages, missing, store)} on {executor.description}. Results: {store.root}")
    _tell(stages, store)
    missing = by_longest_path(missing, lambda stage: costs[stage.signature])
    with Display(stages, costs, store, log_seconds, executor.starting) as display:
        failures = executor.train(missing, journal, display)
    if failures is None:
        return None
    return {signature: f"{display.rows[signature].name}: {reason}" for signature, reason in failures.items()}
