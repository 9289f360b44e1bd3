"""Language models: LSTMs on words (Zaremba et al. 2014) or on the characters of words (Kim et al. 2016)."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float, Integer
from torch import Tensor, nn

from ban.interfaces import Output
from ban.models.head import Head, logits
from ban.ranges import Fraction, Positive, UpTo1000, ZeroTo1000

Words = Integer[Tensor, "time batch"]
State = list[tuple[Tensor, Tensor]]
"""Hidden and cell state of each layer, both `[1, batch, units]`."""


class Recurrence(nn.Module):
    """LSTM layers with dropout between layers and after the last one, but not over time (Zaremba et al. 2014).

    Each layer is an `nn.LSTM` of its own. In a module of several layers cuDNN draws the dropout masks from a generator
    that cannot be reseeded, so a resumed training would use other masks.
    """

    def __init__(self, inputs: int, units: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(units if layer else inputs, units) for layer in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, inputs: Float[Tensor, "time batch inputs"], state: State | None
    ) -> tuple[Float[Tensor, "time batch units"], State, dict[str, Tensor]]:
        """The last layer's outputs after dropout, the carried state, detached, and each layer's outputs by name."""
        hidden, features, carried = inputs, {}, []
        for number, layer in enumerate(self.layers):
            hidden, (output, cell) = layer(hidden, state[number] if state else None)
            features[f"stage{number + 1}"] = hidden
            carried.append((output.detach(), cell.detach()))
            hidden = self.dropout(hidden)
        return hidden, carried, features


class LSTM(nn.Module):
    """Word embedding, LSTM layers, linear output; dropout on the embedding, between layers and before the output.

    With `tied`, the output layer shares the embedding's weights (Press and Wolf 2016). Initialised as in PyTorch's word
    language model example (2017): embedding and output weights from U(−0.1, 0.1), output bias 0, LSTM weights from
    U(−1/√units, 1/√units), which is PyTorch's default.
    Features: `stem` (the embedding), `stage1`, `stage2`, … (the LSTM layers).
    """

    def __init__(self, units: Positive, layers: UpTo1000, dropout: Fraction, tied: bool, *, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, units)
        self.dropout = nn.Dropout(dropout)
        self.recurrence = Recurrence(units, units, layers, dropout)
        self.output_weight = None if tied else nn.Parameter(torch.empty(classes, units).uniform_(-0.1, 0.1))
        self.output_bias = nn.Parameter(torch.zeros(classes))
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, inputs: Words, state: State | None = None) -> Output:
        """Logits of the next word, features and the carried state."""
        embedded = self.embedding(inputs)
        hidden, carried, features = self.recurrence(self.dropout(embedded), state)
        weight = self.embedding.weight if self.output_weight is None else self.output_weight
        return Output(logits(hidden, weight, self.output_bias), {"stem": embedded} | features, carried)


class CharacterLSTM(nn.Module):
    """Character convolutions, maximum over positions, highway layers, LSTM layers, linear output (Kim et al. 2016).

    `filters` are the numbers of convolutions of width 1, 2, 3 and so on. Dropout is applied between LSTM layers and
    before the output, not to the input. As in the authors' code, weights are initialised from U(−0.05, 0.05) and the
    biases of the highway's transform gates to −2; the padding's embedding is 0 and not trained.
    Features: `stem` (the word vectors), `stage1`, `stage2`, … (the LSTM layers).

    Raises:
        ValueError: the longest word is shorter than the widest convolution.
    """

    spelling: Integer[Tensor, "classes characters"]

    def __init__(  # noqa: PLR0913 – flat arguments, as in the YAML
        self,
        characters: Positive,
        character_units: Positive,
        filters: Annotated[Sequence[Positive], MinLen(1)],
        highway_layers: ZeroTo1000,
        units: Positive,
        layers: UpTo1000,
        dropout: Fraction,
        *,
        spelling: Integer[Tensor, "classes characters"],
        classes: int,
    ) -> None:
        super().__init__()
        if spelling.shape[1] < len(filters):
            raise ValueError(
                f"the widest of the filters spans {len(filters)} characters, but the longest word has "
                f"{spelling.shape[1]}, including its start and end"
            )
        self.register_buffer("spelling", spelling, persistent=False)
        self.character_embedding = nn.Embedding(characters, character_units, padding_idx=0)
        widths = enumerate(filters, 1)
        self.convolutions = nn.ModuleList(nn.Conv1d(character_units, count, width) for width, count in widths)
        self.highway = nn.Sequential(*(Highway(sum(filters)) for _ in range(highway_layers)))
        self.recurrence = Recurrence(sum(filters), units, layers, dropout)
        self.output = Head(units, classes)
        self._vectors: tuple[Any, Tensor] | None = None
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.05, 0.05)
        nn.init.zeros_(self.character_embedding.weight[0])
        for layer in self.highway:
            nn.init.constant_(layer.transform.bias, -2.0)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    def train(self, mode: bool = True) -> "CharacterLSTM":
        """As in `nn.Module`. It also drops the cached word vectors: torch's fused optimizers change weights unseen."""
        self._vectors = None
        return super().train(mode)

    def forward(self, inputs: Words, state: State | None = None) -> Output:
        """Logits of the next word, features and the carried state."""
        if self.training or torch.is_grad_enabled():
            vectors = self._read(self.spelling[inputs].flatten(0, 1)).unflatten(0, inputs.shape)
        else:
            vectors = self._vocabulary()[inputs]
        hidden, carried, features = self.recurrence(vectors, state)
        return Output(self.output(hidden), {"stem": vectors} | features, carried)

    def _read(self, spelled: Integer[Tensor, "words characters"]) -> Float[Tensor, "words filters"]:
        """Word vectors from spellings."""
        characters = self.character_embedding(spelled).transpose(1, 2)
        maxima = [convolution(characters).amax(-1).tanh() for convolution in self.convolutions]
        return self.highway(torch.cat(maxima, dim=-1))

    def _vocabulary(self) -> Float[Tensor, "classes filters"]:
        """The vectors of the whole vocabulary, cached until `train`, `eval` or a change of the weights."""
        readers = [self.character_embedding, self.convolutions, self.highway]
        tensors = [parameter for reader in readers for parameter in reader.parameters()]
        version = [(tensor.data_ptr(), tensor._version) for tensor in tensors]  # torch counts most in-place changes
        if self._vectors is None or self._vectors[0] != version:
            self._vectors = version, torch.cat([self._read(part) for part in self.spelling.split(1000)])
        return self._vectors[1]


class Highway(nn.Module):
    """t · relu(W x) + (1 − t) · x with the gate t = σ(V x) (Srivastava et al. 2015)."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden, self.transform = nn.Linear(units, units), nn.Linear(units, units)

    def forward(self, inputs: Float[Tensor, "words units"]) -> Float[Tensor, "words units"]:
        """The gated mixture, of the same shape."""
        gate = torch.sigmoid(self.transform(inputs))
        return torch.lerp(inputs, F.relu(self.hidden(inputs)), gate)
