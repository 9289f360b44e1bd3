"""The slots of this machine: how many stages it trains at the same time, and on which devices."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ban.cpus import cpus
from ban.errors import UserError
from ban.training.device import Device


class Slot(NamedTuple):
    """Room for one stage."""

    name: str
    visible: str | None = None
    """`CUDA_VISIBLE_DEVICES` of the stage's process; None: as in this process."""


def slots(device: Device, devices: int | str | Sequence[int | str], stages_per_device: int | None) -> list[Slot]:
    """All slots. Every device gets its first slot before one gets its second.

    Args:
        device: the device that the settings name; of several GPUs, `cuda` stands for all.
        devices: `auto` for all GPUs (those in `CUDA_VISIBLE_DEVICES`, if it is set), or the numbers of some.
        stages_per_device: the number of slots on each; None: one on a GPU, and on a CPU the CPUs that this
            process may use, divided by the threads of a training.

    Raises:
        UserError: this machine has no such device.
    """
    if device.name == "cpu":
        if devices != "auto":
            raise UserError(f"hydra.launcher.devices={devices} are GPUs, but machine.device is cpu: leave devices out.")
        return [Slot("cpu")] * (stages_per_device or max(1, cpus().count // device.threads))
    names = _gpus()
    if device.name != "cuda":  # cuda:N
        names = [names[int(device.name.removeprefix("cuda:"))]]
    chosen = [devices] if isinstance(devices, int | str) else devices
    wanted = names if devices == "auto" else [str(device) for device in chosen]
    if missing := [name for name in wanted if name not in names]:
        raise UserError(f"hydra.launcher.devices names {missing[0]}; this machine has {', '.join(names)}.")
    return [Slot(f"GPU {name}", name) for _ in range(stages_per_device or 1) for name in wanted]


def _gpus() -> list[str]:
    """The GPUs by their names in `CUDA_VISIBLE_DEVICES`, or else by number."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    return [name.strip() for name in visible.split(",")][: len(numbers)] if visible else numbers
