"""The device that a process trains on."""

import re
import resource
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from ban.cpus import cpus
from ban.errors import UserError
from ban.settings.schema import Machine
from ban.training.place import Place
from ban.wording import plural

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|ALLOC(ATION)?_FAILED|NOT_INITIALIZED.*cublasCreate", re.I
)
"""What CUDA, torch's allocator of CPU memory, cuDNN and cuBLAS say. cuBLAS needs memory when it is first used."""


class Device(Place):
    """A place, and what torch does there."""

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
        return cls(name, machine.threads or cpus().count)

    @property
    def torch_device(self) -> torch.device:
        """As torch's type."""
        return torch.device(self.name)

    @property
    def hardware(self) -> str:
        """The GPU's product name, or cpu."""
        return torch.cuda.get_device_name(self.torch_device) if self.torch_device.type == "cuda" else "cpu"

    @property
    def product(self) -> str:
        """See `Place`."""
        return super().product if self.name == "cpu" else self.hardware

    def prepare(self) -> torch.device:
        """Configures torch for the whole process, and begins to measure the peak of memory. Returns the device."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("high")  # TF32 where the device has it
        torch.backends.cudnn.benchmark = True
        if self.name == "cpu":
            _reset_peak_of_process()
        else:
            torch.cuda.reset_peak_memory_stats(self.torch_device)
        return self.torch_device

    @property
    def emulates_bf16(self) -> bool:
        """Whether this CPU has no instructions for bf16."""
        return self.name == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")

    def check_precision(self, name: str, needs_instructions: bool = False) -> None:
        """Refuses bf16 on a GPU that has no instructions for it, and on such a CPU where a network needs them.

        Raises:
            UserError: the device cannot compute in this precision.
        """
        if name == "fp32":
            return
        if self.torch_device.type == "cuda":
            with torch.cuda.device(self.torch_device):
                if not torch.cuda.is_bf16_supported(including_emulation=False):
                    raise UserError(f"{self.hardware} has no bf16 instructions: use recipe.precision=fp32.")
        elif self.emulates_bf16 and needs_instructions:
            raise UserError("this CPU has no bf16 instructions, which LSTMs need: use recipe.precision=fp32.")

    def precision(self, name: str) -> AbstractContextManager[Any]:
        """The context in which networks run: autocast for bf16."""
        return nullcontext() if name == "fp32" else torch.autocast(self.torch_device.type, torch.bfloat16)

    def peak_memory_mib(self) -> int:
        """The peak memory use since `prepare`, in MiB: of the GPU, or of the whole process on a CPU."""
        if self.name == "cpu":
            return _peak_of_process()
        return torch.cuda.max_memory_allocated(self.torch_device) // 2**20


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated. Libraries that torch calls raise a `RuntimeError`."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def _reset_peak_of_process() -> None:
    """Lets Linux forget the peak so far. Elsewhere the peak includes the earlier stages of the same process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_of_process() -> int:
    """In MiB. Linux's `ru_maxrss` cannot be reset, and can include that of the program that started this one."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used // (2**20 if sys.platform == "darwin" else 2**10)
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 2**10
