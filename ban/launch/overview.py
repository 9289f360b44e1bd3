"""The plan as people read it, and what it would cost."""

import time
from collections.abc import Sequence

import torch
from rich.prompt import Confirm
from rich.table import Table

from ban.build import rehearse
from ban.display import console
from ban.errors import UserError
from ban.machine import Machine
from ban.plan import Stage
from ban.store import Store

COSTLY_HOURS = 2.0
"""A plan that takes longer than this on a CPU wants to be confirmed."""


def show(stages: Sequence[Stage], store: Store) -> None:
    """Prints the stages: who they are, and whether they are there already."""
    table = Table()
    for heading in ("stage", "signature", "gen.", "seed", "network", "parameters", "store"):
        table.add_column(heading, no_wrap=heading in ("signature", "parameters"))
    for stage in stages:
        state = "there" if store.has(stage.signature) else "to train"
        parameters = f"{rehearse(stage).parameters / 1e6:.2f} M"
        seed = f"{stage.seed}"
        network = stage.model["title"]
        table.add_row(stage.label, stage.signature, f"{stage.generation}", seed, network, parameters, state)
    console.print(table)
    missing = [stage for stage in stages if not store.has(stage.signature)]
    console.print(f"{len(stages)} stages, {len(stages) - len(missing)} in the store, {len(missing)} to be trained.")
    regimes(stages)


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
    return rehearse(stage).training_flops * _examples(stage)


def _examples(stage: Stage) -> int:
    """The images, rows or words that a training goes through."""
    recipe = stage.recipe
    at_once = recipe["batch_size"] * (recipe.get("unroll") or 1)
    steps = stage.examples // at_once
    return recipe["epochs"] * min(steps, recipe.get("steps_per_epoch") or steps) * at_once


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
