"""The memory that a training step needs, and whether to recompute activations where it is scarce."""

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ban.data.images import free_memory
from ban.plan.stage import Parent, Stage
from ban.settings.schema import Network
from ban.training import build
from ban.training.device import Device
from ban.training.rehearsal import FakeDevice, fake_tensors, replace_kernels
from ban.training.step import START

USABLE = 0.9
"""Of the free memory: the rest is for buffers of single operations, which are not counted, and for fragments."""
MIB = 2**20


class Allocations(TorchDispatchMode):
    """A context that follows the memory of the tensors which operations make, fake ones included.

    Buffers that an operation needs only while it runs are not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        """Bytes that are in use now."""
        self.peak = 0
        """The most bytes that were in use at one time."""
        self.moved = 0
        """Bytes that operations have read and written: all their tensors, except of views."""
        self._known = weakref.WeakKeyDictionary[torch.UntypedStorage, int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the operation."""
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            self._add(tensor.untyped_storage())
        if not func.is_view:
            self.moved += sum(tensor.nbytes for tensor in [*_tensors((args, kwargs)), *_tensors(made)])
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size = self._known[storage] = storage.nbytes()
        weakref.finalize(storage, self._remove, size)
        self.current += size
        self.peak = max(self.peak, self.current)

    def _remove(self, size: int) -> None:
        self.current -= size


def _tensors(part: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(part) if isinstance(leaf, Tensor)]


class StepMemory:
    """A training step on fake tensors, which take no memory themselves."""

    def __init__(self, stage: Stage) -> None:
        recipe, device = stage.recipe, FakeDevice("cpu")  # shapes are those of any device
        with fake_tensors(), Allocations() as seen:
            spelling = build.zero_spelling(stage, device.torch_device)

            def load(parent: Parent) -> nn.Module:
                return build.network(parent.stage, parent.index, spelling)

            step = build.training_step(stage, load, device, spelling)
            for learner in step.learners:
                replace_kernels(learner)
            batch, before = (
                build.zero_batch(stage, device.torch_device, recipe.batch_size, recipe.unroll or 1),
                seen.moved,
            )
            step(batch, START)
            kept = [each.optimizer.state_dict()["state"] for each in step.learners]
            kept += [[parameter.grad for parameter in each.network.parameters()] for each in step.learners]
        self.peak = seen.peak + sum(tensor.nbytes for tensor in _tensors(kept))
        """Bytes of weights, optimizer, teachers, batch and activations together, and of the last step's gradients,
        which the next forward pass begins with."""
        self.moved = seen.moved - before
        """Bytes that the operations of a step read and write."""


def fitted(stage: Stage, device: Device) -> tuple[Stage, str]:
    """The stage with `model.checkpointing=auto` decided by what is free, and a sentence if it is on.

    Only for CPUs, whose memory ends by the end of the process. A GPU says when its memory is exhausted: `decided`.
    """
    if not is_undecided(stage) or device.torch_device.type != "cpu":
        return stage, ""
    need, free = StepMemory(stage).peak, free_memory(device.torch_device)
    if need <= USABLE * free:
        return stage, ""
    return decided(
        stage
    ), f"a training step needs {need / MIB:,.0f} MiB, and {free / MIB:,.0f} MiB are free: {RECOMPUTED}"


RECOMPUTED = "activations are recomputed in the backward pass (model.checkpointing=auto)"


def is_undecided(stage: Stage) -> bool:
    """Whether a network of the stage has `checkpointing: auto`."""
    return any(model.checkpointing == "auto" for model in stage.models)


def decided(stage: Stage) -> Stage:
    """The same stage, its signature included, with checkpointing where it was `auto`."""

    def decide(model: Network) -> Network:
        return replace(model, checkpointing=True) if model.checkpointing == "auto" else model

    return replace(stage, models=tuple(map(decide, stage.models)))
