"""Stand-ins of networks that a rehearsal has computed already: the right shapes, without the operations.

All methods of a network can then be rehearsed in the time of one: the methods differ in teacher and terms only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ban.interfaces import Output
from ban.plan.signature import digest
from ban.plan.stage import Stage
from ban.settings.types import plain
from ban.training import build


class Known(NamedTuple):
    """What a network gives for each example."""

    parameters: int
    flops: float
    """Floating-point operations of a forward pass."""
    logits: tuple[torch.Size, torch.dtype]
    features: dict[str, tuple[torch.Size, torch.dtype]]


class Networks:
    """The networks that were rehearsed in this process."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self.flops = 0.0
        """Those of the stand-ins so far."""

    def learn(self, stage: Stage, device_type: str, network: nn.Module, output: Output, flops: float) -> None:
        """Keeps what the stage's only network gave for a batch, and the operations that it took."""
        size = len(output.logits)
        tensors = output.logits, *(output.features or {}).values()
        if isinstance(network, StandIn) or not _is_simple(stage) or output.state is not None:
            return
        if any(len(each) != size for each in tensors):
            return
        shapes = {name: (each.shape[1:], each.dtype) for name, each in (output.features or {}).items()}
        logits = output.logits.shape[1:], output.logits.dtype
        parameters = sum(each.numel() for each in network.parameters())
        self._known[_key(stage, 0, device_type)] = Known(parameters, flops / size, logits, shapes)

    @contextmanager
    def used(self, of: Stage, device_type: str) -> Iterator[None]:
        """A context in which a known network is built as its stand-in, if `of` is made of parts that cannot tell."""
        made = build.network

        def network(stage: Stage, index: int = 0, spelling: Tensor | None = None) -> nn.Module:
            known = self._known.get(_key(stage, index, device_type, of.recipe.precision))
            return StandIn(known, self) if known else made(stage, index, spelling)

        with patch("ban.training.build.network", network if _is_simple(of) else made):
            yield

    def __deepcopy__(self, memo: object) -> "Networks":
        """Itself: what copies of a stand-in compute counts too."""
        return self


class StandIn(nn.Module):
    """A network with one parameter, which its outputs depend on."""

    def __init__(self, known: Known, networks: Networks) -> None:
        super().__init__()
        self.known, self.networks = known, networks
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor, state: None = None, until: None = None) -> Output:
        """Zeros in the network's shapes."""
        self.networks.flops += self.known.flops * len(inputs)

        def zeros(shape: torch.Size, dtype: torch.dtype) -> Tensor:
            return self.weight.to(dtype) * inputs.new_zeros((len(inputs), *shape), dtype=dtype)

        return Output(zeros(*self.known.logits), {name: zeros(*each) for name, each in self.known.features.items()})


def parameters_of(network: nn.Module) -> int:
    """The number of parameters of a network, or of the one that it stands for."""
    if isinstance(network, StandIn):
        return network.known.parameters
    return sum(parameter.numel() for parameter in network.parameters())


def _is_simple(stage: Stage) -> bool:
    """Whether its parts are this program's, and none but the network's forward pass depends on its layers."""
    ours = all(target.startswith(("ban.", "torch.")) for target in stage.targets)
    return ours and len(stage.models) == 1 and not (stage.inherits or stage.is_pretraining or stage.weights)


def _key(stage: Stage, index: int, device_type: str, precision: str | None = None) -> str:
    dataset = stage.dataset
    shapes = [dataset.input_shape, dataset.network_arguments]
    return digest(plain([stage.models[index], shapes, device_type, precision or stage.recipe.precision]))
