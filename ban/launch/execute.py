"""What every command that trains does: plan, ask, run, show the result."""

import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ban.display import Display, console
from ban.errors import Interrupted, UserError
from ban.events import Report
from ban.launch import overview
from ban.launch.devices import slots
from ban.launch.journal import Journal, JournalReport, report_failures
from ban.launch.pool import Failures, Pool, by_longest_path
from ban.plan.lineage import lineage, union
from ban.plan.stage import Stage
from ban.report import tables
from ban.settings.schema import LocalLauncherSettings, Settings
from ban.training.machine import Machine, Signals, cores
from ban.training.stage import run


class Executor(Protocol):
    """Who trains what is missing."""

    def prepare(self, missing: Sequence[Stage], settings: Settings) -> str:
        """Before anything is written: refuses what cannot be trained there, asks if it is costly, says where it is."""
        ...

    def train(self, missing: Sequence[Stage], report: Report) -> Failures | None:
        """Trains all it can; None if it does so without this process.

        Raises:
            Interrupted: a signal arrived, and everything is saved.
        """
        ...


def execute(jobs: Sequence[Settings], executor: Executor) -> None:
    """Trains what the jobs ask for and the store does not have, and shows the table.

    Raises:
        SystemExit: with a message and status 1 after a failure, with 128 + n after signal n.
    """
    journal = Journal(jobs[0].machine.outputs)
    try:
        failures = _execute(jobs, executor, journal)
    except UserError as error:
        raise SystemExit(f"ban: {error}") from None
    except OSError as error:
        raise SystemExit(f"ban: {error.filename or 'a file'}: {error.strerror or error}.") from error
    except Interrupted as stop:
        name = signal.Signals(stop.signal_number).name
        console.print(f"Stopped by {name}. Checkpoints are saved: run the same command again and it goes on.")
        raise SystemExit(128 + stop.signal_number) from None
    if failures:
        reasons = "\n".join(f"  {reason}\n    log: {journal.log(name)}" for name, reason in failures.items())
        raise SystemExit(f"ban: {len(failures)} stages failed; the same command tries them again.\n{reasons}")


def _execute(jobs: Sequence[Settings], executor: Executor, journal: Journal) -> Failures:
    first, store = jobs[0], journal.store
    if any(
        getattr(job, part) != getattr(first, part) for job in jobs for part in ("machine", "dry_run", "yes", "table")
    ):
        raise UserError("a sweep runs on one machine: machine, dry_run, yes and table cannot be swept over.")
    lineages = [lineage(job) for job in jobs]
    stages = union(lineages)
    if first.dry_run:
        overview.show(lineages, store, Machine.of(first.machine))
        return {}
    missing = [stage for stage in stages if not store.has(stage.signature)]
    for stage in missing:
        overview.check_shapes(stage)
    where = executor.prepare(missing, first)
    console.print(
        f"{len(stages)} stages, {len(stages) - len(missing)} in the store, {len(missing)} to train on {where}; "
        f"results go to {store.root}"
    )
    overview.regimes(stages)
    costs = {stage.signature: overview.operations(stage) for stage in missing}
    missing = by_longest_path(missing, lambda stage: costs[stage.signature])
    with Display(missing, costs, first.machine.log_seconds) as display:
        failures = executor.train(missing, display)
    if failures is None:
        return {}
    tables.show(tables.compare(stages, store, first.table), store.root)
    names = {stage.signature: display.stages[stage.signature].name for stage in missing}
    return {signature: f"{names[signature]}: {reason}" for signature, reason in failures.items()}


class InProcess:
    """One stage after another in this process."""

    def prepare(self, missing: Sequence[Stage], settings: Settings) -> str:
        """See `Executor`."""
        self.machine = Machine.of(settings.machine)
        _check(missing, self.machine)
        overview.confirm(missing, self.machine, settings.yes, 1)
        return f"{self.machine.device} ({self.machine.threads} threads)"

    def train(self, missing: Sequence[Stage], report: Report) -> Failures:
        """See `Executor`."""
        journal, machine = Journal(self.machine.outputs), self.machine
        with Signals().caught() as signals, journal.queued(missing):
            for stage in missing:
                follow = JournalReport(journal, stage, machine.device, machine.log_seconds, report)
                with report_failures(follow, stage):
                    run(stage, machine, follow, signals)
        return {}


class LocalPool:
    """Processes on this machine, as many as it has places."""

    def __init__(self, options: LocalLauncherSettings) -> None:
        self.options = options

    def prepare(self, missing: Sequence[Stage], settings: Settings) -> str:
        """See `Executor`."""
        machine = Machine.of(settings.machine)
        self.slots = slots(machine, self.options.devices, self.options.stages_per_device)
        shared = settings.machine.threads or max(1, cores() // len(self.slots))
        self.machine = replace(machine, threads=shared)
        _check(missing, self.machine)
        overview.confirm(missing, self.machine, settings.yes, len(self.slots))
        devices = ", ".join(dict.fromkeys(slot.name for slot in self.slots))
        return f"{devices} ({len(self.slots)} at a time, {self.machine.threads} threads each)"

    def train(self, missing: Sequence[Stage], report: Report) -> Failures:
        """See `Executor`."""
        with Journal(self.machine.outputs).queued(missing):
            return Pool(missing, self.machine, self.slots, report, self.options.stall_timeout).run()


def _check(missing: Sequence[Stage], machine: Machine) -> None:
    """Refuses or warns of what this machine cannot do well."""
    emulated = [stage for stage in missing if stage.recipe.precision == "bf16" and machine.emulates_bf16]
    if any(stage.dataset.is_text for stage in emulated):
        raise UserError("this CPU has no bf16 instructions, and LSTMs cannot do without: use recipe.precision=fp32.")
    if emulated:
        console.print("This CPU emulates bf16, which is about ten times slower than recipe.precision=fp32.")
