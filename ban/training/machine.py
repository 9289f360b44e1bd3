"""Where and how to run: what is never part of a signature."""

import importlib.util
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from ban.errors import Interrupted, UserError
from ban.settings import schema


@dataclass(frozen=True)
class Machine:
    """The `machine` settings with everything `auto` decided."""

    device: str
    threads: int
    outputs: Path
    data_dir: Path
    download: bool
    checkpoint_seconds: float
    log_seconds: float
    compile: bool
    tensorboard: bool

    @classmethod
    def of(cls, settings: schema.Machine) -> "Machine":
        """From the `machine` part of the settings.

        Raises:
            UserError: the device is not there.
        """
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"machine.device={device}, but torch sees no CUDA device here: use machine.device=cpu.")
        if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
            raise UserError(f"machine.device={device}, but there are only {torch.cuda.device_count()} CUDA devices.")
        threads = settings.threads or cores()
        given: dict[str, Any] = {each.name: getattr(settings, each.name) for each in fields(cls)}
        return cls(**(given | {"device": device, "threads": threads}))

    def prepare(self) -> torch.device:
        """Sets what holds for the whole process."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("high")  # TF32 where the device has it
        torch.backends.cudnn.benchmark = True
        return torch.device(self.device)

    @property
    def emulates_bf16(self) -> bool:
        """Whether bf16 has no instructions here."""
        return self.device == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")

    def precision(self, name: str) -> AbstractContextManager[Any]:
        """The context in which networks run: autocast for bf16."""
        if name == "fp32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

    def peak_memory_mib(self) -> int:
        """The most memory in use so far: of the device by this process, or of the whole process on a CPU."""
        if self.device == "cpu":
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return used // (2**20 if sys.platform == "darwin" else 2**10)
        return torch.cuda.max_memory_allocated(torch.device(self.device)) // 2**20

    def accelerate(self, network: nn.Module) -> None:
        """Compiles the network if that is asked for and possible; otherwise warns and leaves it as it is."""
        if not self.compile:
            return
        triton = self.device == "cpu" or importlib.util.find_spec("triton")
        if not (triton and shutil.which("c++")):
            needed = "a C++ compiler" if triton else "triton"
            warnings.warn(f"machine.compile=true needs {needed}, which is not here: going on without.", stacklevel=2)
            return
        network.compile()


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Signals:
    """Remembers SIGTERM or SIGINT until the training is between two steps; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number, self.received = 0, 0.0

    @contextmanager
    def caught(self) -> Iterator["Signals"]:
        """While this lasts, signals wait for the training."""
        before = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """To be called where it is safe to stop.

        Raises:
            Interrupted: a signal has arrived.
        """
        if self.number:
            raise Interrupted(self.number)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        now = time.monotonic()
        if self.number and now - self.received > 1:  # a signal to the process and to its group counts once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.number:
            self.number, self.received = number, now
