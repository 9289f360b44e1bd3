"""Contrastive representation distillation."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, feature
from ban.ranges import Fraction, Positive, PositiveNumber, Text


class Contrast(Term):
    """Finds, among many embeddings of the other network, that of the same example (Tian, Krishnan and Isola 2020).

    An embedding is a linear map of the layer to `width` numbers, normalised. A memory holds one embedding of each
    training example and network: m ← normalised(`momentum` · m + (1 − `momentum`) · embedding), at first uniform noise.
    The score of student embedding e_i and the teacher's memory m_j is exp(e_i · m_j / `temperature`) / Z, and the other
    way round. Z, one constant for each network, is the mean at the first step times the number of examples.

    To each example belong `negatives` others of other classes, at most as many as there are training examples. They are
    drawn with replacement. Unlabelled examples count as one class. A row of the memory that no step has written yet is
    noise without a class.
    """

    memory: Tensor
    """Of the student and of the teacher, `[2, examples, width]`."""
    labels: Tensor
    """Of the rows of the memory; -2 where no step has written."""
    constants: Tensor
    """Z of the student's and of the teacher's scores; 0 before the first step."""
    embeddings: nn.ModuleList

    def __init__(
        self,
        layer: Text = "pooled",
        width: Positive = 128,
        negatives: Positive = 16384,
        temperature: PositiveNumber = 0.07,
        momentum: Fraction = 0.5,
    ) -> None:
        super().__init__()
        self.layer, self.width, self.negatives = layer, width, negatives
        self.temperature, self.momentum = temperature, momentum

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Make the embeddings and the memory.

        Raises:
            ValueError: a layer does not exist, or is no vector.
        """
        layers = self._layers(output, teacher)
        if any(layer.ndim != 2 for layer in layers):
            raise ValueError(f"CRD needs vectors, [batch, features], such as 'pooled', and '{self.layer}' is none")
        self.embeddings = nn.ModuleList(nn.Linear(layer.shape[1], self.width) for layer in layers)
        bound = (3 / self.width) ** 0.5  # of numbers whose squares add up to 1 on average
        self.register_buffer("memory", torch.empty(2, self.examples, self.width).uniform_(-bound, bound))
        self.register_buffer("labels", torch.full((self.examples,), -2))
        self.register_buffer("constants", torch.zeros(2))

    def _layers(self, output: Output, teacher: TeacherOutput) -> list[Tensor]:
        ours, theirs = (output.features, "the student"), (teacher.features, "the teacher")
        return [feature(features, self.layer, whose) for features, whose in (ours, theirs)]

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Sum over both directions, mean over the batch. Writes into the memory."""
        layers = zip(self.embeddings, self._layers(output, teacher), strict=True)
        embedded = torch.stack([F.normalize(embedding(layer)) for embedding, layer in layers])
        self.labels[batch.indices] = batch.targets
        chosen = torch.cat([batch.indices[:, None], self._negatives(batch.targets)], 1)
        similarities = embedded @ self.memory.flip(0).transpose(1, 2)
        scores = (similarities.gather(2, chosen.expand(2, -1, -1)) / self.temperature).exp()
        with torch.no_grad():
            estimated = scores.mean((1, 2)) * self.examples
            self.constants.copy_(torch.where(self.constants > 0, self.constants, estimated))
            mixed = self.momentum * self.memory[:, batch.indices] + (1 - self.momentum) * embedded
            self.memory[:, batch.indices] = F.normalize(mixed, dim=-1)
        noise = (chosen.shape[1] - 1) / self.examples
        scores = (scores / self.constants.clone()[:, None, None]).flatten(0, 1)
        return 2 * losses.noise_contrast(scores, noise=noise).mean()

    def _negatives(self, targets: Int64[Tensor, " batch"]) -> Int64[Tensor, "batch negatives"]:
        """For each example others, drawn uniformly from those of other classes."""
        by_class = self.labels.argsort(stable=True)
        labels = self.labels[by_class]
        first, end = (torch.searchsorted(labels, targets.contiguous(), right=right) for right in (False, True))
        drawn = torch.rand(len(targets), min(self.negatives, self.examples), dtype=torch.float64, device=labels.device)
        after = (drawn * (self.examples - end + first)[:, None]).long()
        return by_class[(end[:, None] + after) % self.examples]
