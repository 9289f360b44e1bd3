"""The places of this machine where stages can be trained at the same time."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ban.errors import UserError
from ban.training.machine import Machine, cores


class Slot(NamedTuple):
    """A place for one stage."""

    name: str
    visible: str | None = None
    """`CUDA_VISIBLE_DEVICES` of the stage's process."""


def slots(machine: Machine, devices: int | str | Sequence[int | str], stages_per_device: int | None) -> list[Slot]:
    """All places, device by device: so many on each; by default one on a GPU, and the cores divided by the threads.

    `devices`: auto for all GPUs, or those in `CUDA_VISIBLE_DEVICES`, else the CPU; or some of them, by number.

    Raises:
        UserError: there is no such device, or not even one stage at a time.
    """
    if stages_per_device is not None and stages_per_device < 1:
        raise UserError(f"hydra.launcher.stages_per_device is {stages_per_device}; it must be 1 or more, or null.")
    if machine.device == "cpu":
        if devices != "auto":
            raise UserError(f"hydra.launcher.devices={devices} are GPUs, but machine.device is cpu: leave devices out.")
        return [Slot("cpu")] * (stages_per_device or max(1, cores() // machine.threads))
    names = _gpus()
    if machine.device != "cuda":  # cuda:N
        names = [names[int(machine.device.removeprefix("cuda:"))]]
    chosen = [devices] if isinstance(devices, int | str) else devices
    wanted = names if devices == "auto" else [str(device) for device in chosen]
    if missing := [name for name in wanted if name not in names]:
        raise UserError(f"hydra.launcher.devices names {missing[0]}; there are {', '.join(names)}.")
    # One stage on each device before a second one on any.
    return [Slot(f"GPU {name}", name) for _ in range(stages_per_device or 1) for name in wanted]


def _gpus() -> list[str]:
    """The devices by the names that `CUDA_VISIBLE_DEVICES` knows: numbers, or what it says itself."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    return [name.strip() for name in visible.split(",")][: len(numbers)] if visible else numbers
