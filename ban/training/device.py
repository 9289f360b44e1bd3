"""The device that a process trains on."""

import importlib.util
import os
import resource
import shutil
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ban.errors import UserError
from ban.settings.schema import Machine
from ban.wording import plural


@dataclass(frozen=True)
class Device:
    """A device by torch's name, and the CPU threads of a training."""

    name: str
    threads: int = 1

    @classmethod
    def of(cls, machine: Machine) -> "Device":
        """The device that the settings name, or the best one where they say `auto`.

        Raises:
            UserError: this machine has no such device.
        """
        name = machine.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"machine.device={name}, but torch sees no CUDA device here: use machine.device=cpu.")
        if name.startswith("cuda:") and int(name[5:]) >= (count := torch.cuda.device_count()):
            raise UserError(
                f"machine.device={name}, but this machine has {plural(count, 'CUDA device')}, counted from 0."
            )
        return cls(name, machine.threads or cores())

    def __str__(self) -> str:
        return f"{self.name} ({plural(self.threads, 'thread')})" if self.name == "cpu" else self.name

    @property
    def torch_device(self) -> torch.device:
        """As torch's type."""
        return torch.device(self.name)

    @property
    def hardware(self) -> str:
        """The GPU's product name, or cpu."""
        return torch.cuda.get_device_name(self.torch_device) if self.torch_device.type == "cuda" else "cpu"

    def prepare(self) -> torch.device:
        """Configures torch for the whole process. Returns the device."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("high")  # TF32 where the device has it
        torch.backends.cudnn.benchmark = True
        return self.torch_device

    @property
    def emulates_bf16(self) -> bool:
        """Whether this device has no instructions for bf16."""
        return self.name == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")

    def precision(self, name: str) -> AbstractContextManager[Any]:
        """The context in which networks run: autocast for bf16."""
        return nullcontext() if name == "fp32" else torch.autocast(self.torch_device.type, torch.bfloat16)

    def peak_memory_mib(self) -> int:
        """The peak memory use of this process, in MiB: of the GPU, or of the whole process on a CPU."""
        if self.name == "cpu":
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return used // (2**20 if sys.platform == "darwin" else 2**10)
        return torch.cuda.max_memory_allocated(self.torch_device) // 2**20

    def compile(self, network: nn.Module) -> None:
        """Compiles the network in place; warns and leaves it as it is where a compiler is missing."""
        triton = self.name == "cpu" or importlib.util.find_spec("triton")
        if not (triton and shutil.which("c++")):
            needed = "a C++ compiler" if triton else "triton"
            warnings.warn(f"machine.compile=true needs {needed}; training continues without it.", stacklevel=2)
            return
        network.compile()


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
