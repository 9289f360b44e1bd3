"""What every command that trains does: plan, ask, run, show the result."""

import signal
from collections.abc import Mapping, Sequence
from typing import Any

from ban import tables
from ban.display import Display, console
from ban.errors import Interrupted, UserError
from ban.launch import overview
from ban.launch.pool import Failures, Pool
from ban.machine import Machine, Signals, cores
from ban.plan import Stage, lineage, union
from ban.run import run
from ban.store import Store


def execute(jobs: Sequence[Mapping[str, Any]], *, in_processes: bool, slots: int | None = None) -> None:
    """Trains what the jobs ask for and the store does not have, and shows the table.

    Raises:
        SystemExit: with a message and status 1 after a failure, with 128 + n after signal n.
    """
    try:
        failures = _execute(jobs, in_processes, slots)
    except UserError as error:
        raise SystemExit(f"ban: {error}") from None
    except Interrupted as stop:
        name = signal.Signals(stop.signal_number).name
        console.print(f"Stopped by {name}. Checkpoints are saved: run the same command again and it goes on.")
        raise SystemExit(128 + stop.signal_number) from None
    if failures:
        reasons = "\n".join(f"  {signature}: {reason}" for signature, reason in failures.items())
        raise SystemExit(f"ban: {len(failures)} stages failed; the same command tries them again.\n{reasons}")


def _execute(jobs: Sequence[Mapping[str, Any]], in_processes: bool, slots: int | None) -> Failures:
    first = jobs[0]
    if any(job[part] != first[part] for job in jobs for part in ("machine", "dry_run", "yes", "table")):
        raise UserError("a sweep runs on one machine: machine, dry_run, yes and table cannot be swept over.")
    machine = Machine.of(first["machine"])
    store = Store(machine.outputs)
    stages = union(lineage(job) for job in jobs)
    if first["dry_run"]:
        overview.show(stages, store)
        return {}
    missing = [stage for stage in stages if not store.has(stage.signature)]
    for stage in missing:
        _check(stage, machine)
    if slots is not None and slots < 1:
        raise UserError(f"hydra.launcher.slots is {slots}; it must be 1 or more, or null.")
    if slots is None:
        slots = max(1, cores() // machine.threads) if machine.device == "cpu" and in_processes else 1
    overview.confirm(missing, machine, first["yes"], slots)
    _announce(stages, missing, machine, slots)
    with Display(missing, machine.log_seconds) as display:
        if in_processes:
            failures = Pool(missing, machine, slots, display).run()
        else:
            failures = {}
            with Signals().caught() as signals:
                for stage in missing:
                    run(stage, machine, display, signals)
    tables.show(tables.compare(stages, store, first["table"]), machine.outputs)
    return failures


def _check(stage: Stage, machine: Machine) -> None:
    """Refuses what could not be trained here, before anything is written."""
    overview.rehearse(stage)
    emulated = stage.recipe["precision"] == "bf16" and machine.emulates_bf16
    if emulated and stage.dataset["kind"] == "language":
        raise UserError("this CPU has no bf16 instructions, and LSTMs cannot do without: use recipe.precision=fp32.")


def _announce(stages: Sequence[Stage], missing: Sequence[Stage], machine: Machine, slots: int) -> None:
    console.print(
        f"{len(stages)} stages, {len(stages) - len(missing)} in the store, {len(missing)} to train on {machine.device}"
        f" ({slots} at a time, {machine.threads} threads each); results go to {machine.outputs}"
    )
    overview.regimes(stages)
    if any(stage.recipe["precision"] == "bf16" for stage in missing) and machine.emulates_bf16:
        console.print("  This CPU emulates bf16, which is about ten times slower than recipe.precision=fp32.")
