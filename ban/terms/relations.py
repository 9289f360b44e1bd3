"""Loss terms that compare hidden layers by what does not depend on their width: maps, and relations of examples."""

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor, nn

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput, Term, feature
from ban.ranges import NonNegativeNumber, Positive, Text

Layers = Annotated[Sequence[Text], MinLen(1)]


class Layerwise(Term):
    """A distance between the student's and the teacher's layers of the same names, summed over `layers`."""

    dimensions: ClassVar[tuple[int, str]] = (4, "convolutional layers, [batch, channels, height, width]")
    """Of a layer, and what messages call such layers."""
    distance: ClassVar[Callable[[Tensor, Tensor], Tensor]]

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.layers = list(layers)

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Check the layers.

        Raises:
            ValueError: a layer does not exist, or is of another kind.
        """
        for ours, theirs in self._pairs(output, teacher):
            _check(type(self).__name__, (ours, theirs), *self.dimensions)

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the batch."""
        return sum(
            (type(self).distance(*pair).mean() for pair in self._pairs(output, teacher)), output.logits.new_zeros(())
        )

    def _pairs(self, output: Output, teacher: TeacherOutput) -> list[tuple[Tensor, Tensor]]:
        return [
            (feature(output.features, name, "the student"), feature(teacher.features, name, "the teacher"))
            for name in self.layers
        ]


def _check(name: str, layers: Sequence[Tensor], dimensions: int, title: str) -> None:
    for layer in layers:
        if layer.ndim != dimensions:
            raise ValueError(f"{name} compares {title}, but a layer has the shape {list(layer.shape)}")


class Attention(Layerwise):
    """Attention maps (AT; Zagoruyko and Komodakis 2017): where a layer's activations are large."""

    distance = staticmethod(losses.attention_distance)


class Similarities(Layerwise):
    """Similarities of the examples of a batch (SP; Tung and Mori 2019)."""

    distance = staticmethod(losses.similarity_distance)


class Selectivity(Layerwise):
    """Distributions of the channels' maps (NST with the polynomial kernel; Huang and Wang 2017)."""

    distance = staticmethod(losses.selectivity_distance)


class Neighbours(Layerwise):
    """Cosine similarities of the examples of a batch as probabilities (PKT; Passalis and Tefas 2018)."""

    dimensions = (2, "vectors, [batch, features], such as 'pooled'")
    distance = staticmethod(losses.probabilistic_transfer)


class Relations(Layerwise):
    """Distances and angles between the examples of a batch (RKD; Park et al. 2019)."""

    dimensions = Neighbours.dimensions

    def __init__(self, layers: Layers, distance: NonNegativeNumber = 25.0, angle: NonNegativeNumber = 50.0) -> None:
        super().__init__(layers)
        self.weights = distance, angle

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Weighted sum of both, each the mean over all pairs or triples."""
        total = output.logits.new_zeros(())
        for pair in self._pairs(output, teacher):
            total = total + self.weights[0] * losses.relation_of_distances(*pair)
            total = total + self.weights[1] * losses.relation_of_angles(*pair)
        return total


class Congruence(Layerwise):
    """Products of the distances of consecutive examples, between `width` linear features (CC; Peng et al. 2019).

    As in the authors' shared code. The linear maps of student and teacher are trained with the student.
    """

    dimensions = Neighbours.dimensions

    def __init__(self, layers: Layers, width: Positive = 128) -> None:
        super().__init__(layers)
        self.width = width

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Make the linear maps.

        Raises:
            ValueError: a layer does not exist, or is no vector.
        """
        super().prepare(output, teacher)
        pairs = self._pairs(output, teacher)
        self.maps = nn.ModuleList(
            nn.ModuleList(nn.Linear(layer.shape[1], self.width) for layer in pair) for pair in pairs
        )

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over consecutive examples of the batch, whose order is random."""
        total = output.logits.new_zeros(())
        for (ours, theirs), (mine, other) in zip(self._pairs(output, teacher), self.maps, strict=True):  # pyright: ignore
            total = total + losses.correlation_congruence(mine(ours), other(theirs))
        return total
