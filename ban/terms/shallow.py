"""Classifiers at the stages of a network, which learn from its own output."""

import re
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, feature
from ban.ranges import NonNegativeNumber, PositiveNumber, Probability


class ShallowClassifiers(Term):
    """For each stage but the last, (1 − `alpha`) · CE(label) + `alpha` · H(p, q) + `features` · ‖F − F_C‖.

    Zhang et al., Be your own teacher, ICCV 2019; loss as in public codes. q are the stage's probabilities and p
    the network's own, both at `temperature`. F are the stage's features before its linear layer and F_C those of the
    network, `pooled`; their distance is that of the whole batch. p and F_C get no gradient. A stage's classifier has
    one block for each later stage, with its channels: a 3×3 convolution with stride 2, batch normalisation and ReLU.
    Then come global average pooling and a linear layer. Unlabelled examples count in the mean with a label's loss of 0.
    """

    blocks: nn.ModuleDict
    heads: nn.ModuleDict

    def __init__(
        self, alpha: Probability = 0.3, temperature: PositiveNumber = 3.0, features: NonNegativeNumber = 0.03
    ) -> None:
        super().__init__()
        self.alpha, self.temperature, self.features = alpha, temperature, features

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Make the classifiers.

        Raises:
            ValueError: the network has no two stages, or they are not convolutional.
        """
        stages = [name for name in output.features if re.fullmatch(r"stage\d+", name)]
        if len(stages) < 2:
            raise ValueError(
                "BYOT needs a network with two stages or more, and the student's features are: "
                f"{', '.join(output.features) or 'none'}"
            )
        widths = [output.features[name].shape[1] for name in stages[:-1]]
        widths.append(feature(output.features, "pooled", "the student").shape[1])
        if any(output.features[name].ndim != 4 for name in stages):
            raise ValueError("BYOT needs convolutional stages, [batch, channels, height, width]")
        self.blocks, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for number, name in enumerate(stages[:-1]):
            made = [self._block(*channels) for channels in pairwise(widths[number:])]
            self.blocks[name] = nn.Sequential(*made, nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.heads[name] = nn.Linear(widths[-1], output.logits.shape[-1])

    @staticmethod
    def _block(channels: int, after: int) -> nn.Module:
        convolution = nn.Conv2d(channels, after, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Sum over the stages."""
        targets = losses.probabilities(output.logits.detach(), temperature=self.temperature)
        deepest = feature(output.features, "pooled", "the student").detach()
        total = output.logits.new_zeros(())
        for name, blocks in self.blocks.items():
            features = blocks(feature(output.features, name, "the student"))
            logits = self.heads[name](features)
            label = losses.cross_entropy(logits, batch.targets).mean()
            own = losses.soft_cross_entropy(logits, targets, temperature=self.temperature).mean()
            total = total + (1 - self.alpha) * label + self.alpha * own
            total = total + self.features * torch.linalg.vector_norm(features - deepest)
        return total
