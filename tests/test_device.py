import itertools
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Train, host, plan, quiet

from ban.errors import UserError
from ban.settings.compose import compose_settings
from ban.training import run as training
from ban.training.device import Device, is_out_of_memory
from ban.training.signals import Signals

EXHAUSTED = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    MemoryError(),
)
OTHERS = (
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    ValueError("out of memory"),
)


def test_libraries_say_in_many_ways_that_memory_is_exhausted() -> None:
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**60)
    assert is_out_of_memory(real.value)
    assert all(map(is_out_of_memory, EXHAUSTED)) and not any(map(is_out_of_memory, OTHERS))


@pytest.mark.parametrize("error", [EXHAUSTED[2], OTHERS[0]])
def test_a_stage_that_does_not_fit_is_a_sentence(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(training.build, "training_step", fail)
    settings = compose_settings([f"machine.outputs={tmp_path}", "machine.device=cpu"])
    with pytest.raises(UserError if error in EXHAUSTED else RuntimeError) as raised:
        training.run(plan()[0], host(settings), quiet, Signals())
    assert ("does not fit into the memory" in str(raised.value)) == (error in EXHAUSTED)


def test_a_gpu_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    for supported, precision in itertools.product((True, False), ("fp32", "bf16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, ok=supported: ok)
        refused = precision == "bf16" and not supported
        sentence = r"^Tesla V100 has no bf16 instructions: use recipe\.precision=fp32\.$"
        with pytest.raises(UserError, match=sentence) if refused else nullcontext():
            Device("cuda").check_precision(precision)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_the_peak_of_memory_is_that_of_the_stage(train: Train) -> None:
    first = np.ones(2**26)
    before = Device("cpu").peak_memory_mib()
    del first
    peaks = [result["peak_memory_mib"] for result in train("recipe.epochs=1")]
    assert 100 < max(peaks) < before - 300
