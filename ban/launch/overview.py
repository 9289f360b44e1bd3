"""The plan as people read it, and what it would cost."""

import time
from collections.abc import Sequence

import torch
from rich.filesize import decimal
from rich.progress import track
from rich.prompt import Confirm
from rich.table import Table
from rich.tree import Tree

from ban.display import console
from ban.errors import UserError
from ban.launch.estimate import estimate, free_disk
from ban.plan.lineage import union
from ban.plan.stage import Stage
from ban.store.store import Store
from ban.training.build import check_shapes
from ban.training.machine import Machine

COSTLY_HOURS = 2.0
"""A plan that takes longer than this on a CPU wants to be confirmed."""


def show(lineages: Sequence[Sequence[Stage]], store: Store, machine: Machine) -> None:
    """Prints the stages of all jobs, what they share, who teaches whom, and what is missing would cost here."""
    stages = union(lineages)
    table = Table()
    for heading in ("stage", "signature", "gen.", "seed", "network", "parameters", "store"):
        table.add_column(heading, no_wrap=heading in ("signature", "parameters"))
    for stage in stages:
        state = "there" if store.has(stage.signature) else "to train"
        count = check_shapes(stage).parameters
        parameters = f"{count / 1e6:.2f} M" if count > 1e5 else f"{count:,}"
        seed = f"{stage.seed}"
        network = stage.model.title
        table.add_row(stage.label, stage.signature, f"{stage.generation}", seed, network, parameters, state)
    console.print(table)
    if len(lineages) > 1:
        console.print(_families(stages, store))
        asked = sum(len(each) for each in lineages)
        console.print(
            f"{len(lineages)} jobs ask for {asked} trainings; what they share is trained once, which saves "
            f"{asked - len(stages)}."
        )
    missing = [stage for stage in stages if not store.has(stage.signature)]
    console.print(f"{len(stages)} stages, {len(stages) - len(missing)} in the store, {len(missing)} to be trained.")
    regimes(stages)
    if missing:
        _show_cost(missing, store, machine)


def _families(stages: Sequence[Stage], store: Store) -> Tree:
    """Who teaches whom: a branch for each family, with the number of its repetitions."""
    branches: dict[tuple[str, ...], Tree] = {(): Tree("Who learns from whom")}
    members: dict[tuple[str, ...], list[Stage]] = {}
    for stage in stages:
        members.setdefault(_line(stage), []).append(stage)
    for line, repetitions in members.items():
        first, done = repetitions[0], sum(store.has(stage.signature) for stage in repetitions)
        several = f" × {len(repetitions)}" if len(repetitions) > 1 else ""
        there = f", {done} in the store" if done else ""
        taught = f" by {len(first.teachers)} teachers" if len(first.teachers) > 1 else ""
        branches[line] = branches[line[:-1]].add(f"{first.label}, {first.model.title}{taught}{several}{there}")
    return branches[()]


def _line(stage: Stage) -> tuple[str, ...]:
    """The families from generation 0 to the stage, by the first parents."""
    return (*(_line(stage.parents[0]) if stage.parents else ()), stage.family)


def _show_cost(missing: Sequence[Stage], store: Store, machine: Machine) -> None:
    """Prints time and disk that the missing stages would take, and what that is based on."""
    note = "timing a few steps of each kind of training"
    found = estimate(
        missing,
        machine,
        lambda kinds: track(kinds, note, console=console, transient=True, disable=not console.is_terminal),
    )
    where = f"{machine.device} ({machine.threads} threads)" if machine.device == "cpu" else machine.device
    console.print(
        f"Time: about {_hours(found.seconds)} on {where} for all, one after another; {_hours(found.longest)} for the "
        f"longest chain of teachers and students, however many devices there are.\n"
        f"Disk: {decimal(found.kept)} for results and {decimal(found.temporary)} for the checkpoints of each training "
        f"that runs; {decimal(free_disk(store))} are free.\n"
        f"Basis: a few steps timed here of {found.kinds} kinds of training, without reading data or compiling, and the "
        "parameters of the networks."
    )


def _hours(seconds: float) -> str:
    if seconds > 48 * 3600:
        return f"{seconds / 86400:.0f} days"
    if seconds > 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.0f} seconds"


def regimes(stages: Sequence[Stage]) -> None:
    """Prints data, sizes and recipe of the stages."""
    for title in dict.fromkeys(stage.regime_title for stage in stages):
        console.print(f"  {title}")


def confirm(missing: Sequence[Stage], machine: Machine, yes: bool, slots: int) -> None:
    """Asks before a training that would take long without a GPU.

    Raises:
        UserError: it was not confirmed.
    """
    if yes or machine.device != "cpu":
        return
    total = sum(operations(stage) for stage in missing)
    if total < 1e9 * 3600 * COSTLY_HOURS:
        return  # any CPU does a GFLOP/s: no need to measure
    rate = _operations_per_second(machine.threads)
    hours = total / (rate * slots) / 3600
    if hours < COSTLY_HOURS:
        return
    cost = f"{hours / 24:.0f} days" if hours > 48 else f"{hours:.0f} hours"
    reason = (
        f"{len(missing)} stages to train would take at least {cost} on this CPU ({total:.1e} operations at the "
        f"{rate * slots / 1e9:.0f} GFLOP/s that its convolutions reach)"
    )
    cheaper = "scale=budget takes minutes to hours, scale=smoke seconds"
    if console.is_terminal and Confirm.ask(f"{reason}; {cheaper}. Go ahead?", default=False, console=console):
        return
    raise UserError(f"{reason}. Go ahead with yes=true, or try a cheaper scale: {cheaper}.")


def operations(stage: Stage) -> float:
    """The floating-point operations of a training."""
    return check_shapes(stage).training_flops * stage.examples_seen


def _operations_per_second(threads: int) -> float:
    """What a 3×3 convolution of usual size reaches here; whole networks stay below it."""
    torch.set_num_threads(threads)
    convolution, images = torch.nn.Conv2d(64, 64, 3, padding=1), torch.rand(16, 64, 32, 32)
    with torch.no_grad():
        convolution(images)
        rounds, started = 0, time.perf_counter()
        while time.perf_counter() - started < 0.3:
            convolution(images)
            rounds += 1
        seconds = time.perf_counter() - started
    return rounds * 2 * images.numel() * 64 * 9 / seconds
