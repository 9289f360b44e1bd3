"""Plans the jobs of a command, trains the missing stages, and shows the result."""

import gc
import signal
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Protocol

from ban.cpus import cpus
from ban.display import busy, console, ready
from ban.errors import Interrupted, UserError
from ban.events import Report
from ban.launch import overview
from ban.launch.devices import slots
from ban.launch.estimate import operations
from ban.launch.journal import Journal, JournalReport, report_failures
from ban.launch.live import Display
from ban.launch.pool import Failures, Pool, by_longest_path
from ban.plan.lineage import lineage, union
from ban.plan.stage import Stage
from ban.report.render import show
from ban.report.results import Results
from ban.report.tables import compare
from ban.settings.schema import LocalLauncherSettings, Settings
from ban.store.store import Store
from ban.trackers.tracking import check_installed
from ban.training import build
from ban.training.arguments import check_arguments
from ban.training.bundle import MEMBERS, kind
from ban.training.device import Device
from ban.training.rehearsal import rehearse
from ban.training.run import Host, run
from ban.training.signals import Signals
from ban.wording import plural


class Executor(Protocol):
    """Trains missing stages somewhere."""

    @property
    def description(self) -> str:
        """Where it trains, for people."""
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


def execute(jobs: Sequence[Settings], make_executor: Callable[[Settings], Executor]) -> None:
    """Trains the stages of the jobs that the store lacks, and shows the table.

    Raises:
        SystemExit: with a message and status 1 after a failure, with 128 + n after signal n.
    """
    store = Store(jobs[0].machine.outputs)
    journal = Journal(store)
    try:
        failures = _execute(jobs, make_executor, journal)
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


def _execute(jobs: Sequence[Settings], make_executor: Callable[[Settings], Executor], journal: Journal) -> Failures:
    first, store = jobs[0], journal.store
    common = ("machine", "dry_run", "yes", "table")
    if any(getattr(job, part) != getattr(first, part) for job in jobs for part in common):
        raise UserError("a sweep runs on one machine: machine, dry_run, yes and table cannot be swept over.")
    check_installed(first.machine.trackers)
    busy("checking the plan")
    for job in jobs:
        check_arguments(job)
    lineages = [lineage(job) for job in jobs]
    stages = union(lineages)
    missing = [stage for stage in stages if not store.has(stage.signature)]
    if first.dry_run:
        device = Device.of(first.machine)
        _check_precision(missing, device)
        _rehearse(stages, device.torch_device.type)
        overview.show(lineages, store, device)
        return {}
    executor = make_executor(first)
    _rehearse(missing, executor.device_type)
    costs = {stage.signature: operations(stage) for stage in missing}
    executor.check(missing)
    console.print(f"{overview.counts(stages, missing)} on {executor.description}. Results: {store.root}")
    overview.regimes(stages)
    overview.tell_weights(stages, store)
    overview.tell_unrecorded(stages, store)
    missing = by_longest_path(missing, lambda stage: costs[stage.signature])
    started = time.monotonic()
    with Display(stages, costs, store, first.machine.log_seconds) as display:
        failures = executor.train(missing, journal, display)
    if failures is None:
        return {}
    if not failures or any(store.has(stage.signature) for stage in stages):
        tables = compare(stages, Results(store), first.table)
        show(tables, store.root)
        if missing and not failures:
            console.print(overview.end(tables, len(missing), time.monotonic() - started))
    return {signature: f"{display.rows[signature].name}: {reason}" for signature, reason in failures.items()}


def _rehearse(stages: Sequence[Stage], device_type: str) -> None:
    for stage in stages:
        rehearse(stage, device_type)
    ready()


class InProcess:
    """Trains one stage after another in this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.device = settings, Device.of(settings.machine)

    @property
    def description(self) -> str:
        """See `Executor`."""
        return f"{self.device}"

    @property
    def device_type(self) -> str:
        """See `Executor`."""
        return self.device.torch_device.type

    def check(self, missing: Sequence[Stage]) -> None:
        """See `Executor`."""
        _check_precision(missing, self.device)
        overview.confirm(missing, self.device, self.settings.yes, 1)
        build.fetch(missing, self.settings.machine)

    def train(self, missing: Sequence[Stage], journal: Journal, report: Report) -> Failures:
        """See `Executor`."""
        host = Host(self.settings.machine, self.device, journal.store)
        gc.freeze()  # collections need not look through the modules
        with Signals().caught() as signals, journal.queued(missing):
            for stage in missing:
                noted = JournalReport(journal, stage, self.device.name, host.machine.log_seconds, report)
                try:
                    with report_failures(noted, stage):
                        run(stage, host, noted, signals)
                except UserError as error:
                    raise UserError(f"{error} Log: {journal.log(stage.signature)}.") from error
        return {}


class LocalPool:
    """Trains in several processes on this machine."""

    def __init__(self, settings: Settings, options: LocalLauncherSettings) -> None:
        self.settings, self.options = settings, options
        device = Device.of(settings.machine)
        self.slots = slots(device, options.devices, options.stages_per_device)
        threads = settings.machine.threads or max(1, cpus().count // len(self.slots))
        self.device = replace(device, threads=threads)

    @property
    def description(self) -> str:
        """See `Executor`."""
        devices = ", ".join(dict.fromkeys(slot.name for slot in self.slots))
        return f"{devices} ({len(self.slots)} at a time, {plural(self.device.threads, 'thread')} each; {cpus()})"

    @property
    def device_type(self) -> str:
        """See `Executor`."""
        return self.device.torch_device.type

    def check(self, missing: Sequence[Stage]) -> None:
        """See `Executor`."""
        _check_precision(missing, self.device)
        overview.confirm(missing, self.device, self.settings.yes, len(self.slots))
        build.fetch(missing, self.settings.machine)

    def train(self, missing: Sequence[Stage], journal: Journal, report: Report) -> Failures:
        """See `Executor`."""
        host = Host(self.settings.machine, self.device, journal.store)
        with journal.queued(missing):
            return Pool(missing, host, self.slots, report, self.options.stall_timeout, *self._bundles(missing)).run()

    def _bundles(self, missing: Sequence[Stage]) -> tuple[dict[str, Hashable], int]:
        """Signature → the kind of bundle that the stage can be in, and the largest size of a bundle."""
        chosen = self.options.bundle
        if chosen is False:
            return {}, 1
        device_type = self.device_type if chosen == "auto" else None
        kinds = {stage.signature: kind(stage, self.settings.machine, device_type) for stage in missing}
        return kinds, MEMBERS if chosen == "auto" else chosen


def _check_precision(missing: Sequence[Stage], device: Device) -> None:
    """Refuses bf16 where the device cannot compute it, and warns where it is slow."""
    for stage in missing:
        device.check_precision(stage.recipe.precision, stage.dataset.is_text)
    if device.emulates_bf16 and any(stage.recipe.precision == "bf16" for stage in missing):
        console.print("This CPU emulates bf16, which is about ten times slower than recipe.precision=fp32.")
