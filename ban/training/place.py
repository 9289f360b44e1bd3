"""Where trainings run, in words. Torch is imported only where a GPU may be there."""

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from ban.cpus import cpus
from ban.settings.schema import Machine
from ban.wording import plural

CPU_INFO = Path("/proc/cpuinfo")
GPU_FILES = ("nvidia", "nvhost", "nvmap", "nvgpu", "dxg", "kfd")
"""Beginnings of the names in `/dev` through which CUDA and ROCm reach a GPU, under WSL too."""


@dataclass(frozen=True)
class Place:
    """A device by torch's name, and the CPU threads of a training."""

    name: str
    threads: int = 1

    def __str__(self) -> str:
        return f"{self.name} ({plural(self.threads, 'thread')}; {cpus()})" if self.name == "cpu" else self.name

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`."""
        return self.name.partition(":")[0]

    @property
    def product(self) -> str:
        """What the speed of a training depends on: the names of CPU and system, and the CPUs."""
        return f"{cpu_name()}, {platform.platform()}, {cpus()}"


def cpu_name() -> str:
    """The CPU's product name; perhaps empty where the system is not Linux."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return (names or [platform.processor()])[0]


def place_of(machine: Machine) -> Place:
    """The device that the settings name, or the best one where they say `auto`.

    Raises:
        UserError: this machine has no such device.
    """
    if machine.device == "cpu" or (machine.device == "auto" and not _may_have_gpu()):
        return Place("cpu", machine.threads or cpus().count)
    from ban.training.device import Device

    return Device.of(machine)


def _may_have_gpu() -> bool:
    try:
        return any(path.name.startswith(GPU_FILES) for path in Path("/dev").iterdir())
    except OSError:
        return True
