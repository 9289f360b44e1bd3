"""The last layer of a classifier."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Head(nn.Linear):
    """A linear layer in fp32, under autocast too: rounded to bf16, the two largest logits would often be equal."""

    def forward(self, input: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch classes"]:
        """Logits."""
        return logits(input, self.weight, self.bias)


def logits(
    hidden: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "classes inputs"],
    bias: Float[Tensor, " classes"] | None,
) -> Float[Tensor, "*batch classes"]:
    """The linear layer as a function, for weights that are shared."""
    device = hidden.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        return F.linear(hidden.float(), weight, bias)
