"""A finished stage's network, ready to be used."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ban.data.corpus import Vocabulary
from ban.data.text import EVALUATION_STEPS
from ban.errors import UserError
from ban.inference.inputs import Inputs, inputs_of
from ban.settings.construct import build, foreign_target
from ban.settings.schema import Network
from ban.store.formats import VOCABULARY, weights_file
from ban.store.result import Result
from ban.store.store import Store


@dataclass(frozen=True)
class TrainedStage:
    """A finished stage and one of its networks."""

    signature: str
    description: Mapping[str, Any]
    """Identity and all settings: the content of `stage.json`."""
    result: Result
    """What was measured: the content of `result.json`."""
    network: nn.Module
    """In evaluation mode. Maps a batch to a `ban.interfaces.Output`, whose `logits` are `[batch, classes]`."""
    classes: Sequence[str]
    """The names of the classes in the order of the logits; of a text, the words."""
    inputs: Inputs | None
    """None: the stage does not store what was fitted to its training data, such as whitening."""

    @property
    def transform(self) -> Callable[[Any], Tensor]:
        """From an image (file, Pillow image or array), row or text to the tensor that the evaluation would make of it.

        Raises:
            UserError: what was fitted to the training data is not stored.
        """
        if self.inputs is None:
            raise UserError(
                f"{self.signature} does not store how its inputs were normalised: it was trained on whitened images, "
                "by a data set of your own, or with 0.2.0."
            )
        return self.inputs

    @torch.no_grad()
    def log_probabilities(self, batch: Tensor) -> Float[NDArray[Any], "batch classes"]:
        """Of all classes, for a batch of transformed images or rows."""
        return self.network(batch.to(self._device)).logits.float().log_softmax(-1).cpu().numpy()

    def probabilities(self, examples: Sequence[Any]) -> Float[NDArray[Any], "examples classes"]:
        """Of all classes, for images or rows that are not transformed yet."""
        return np.exp(self.log_probabilities(torch.stack([self.transform(each) for each in examples])))

    @torch.no_grad()
    def word_log_probabilities(self, words: Tensor) -> Float[NDArray[Any], " words"]:
        """Of each word of a transformed text, given those before it."""
        state, found = None, list[Tensor]()
        for window, targets in _windows(words.to(self._device)):
            output = self.network(window, state)
            state = output.state
            found.append(output.logits.float().log_softmax(-1).gather(-1, targets[..., None]).flatten())
        return torch.cat(found).cpu().numpy()

    def perplexity(self, text: str) -> float:
        """Of a text: exp of the mean of −log p over its words and the ends of its lines."""
        return float(np.exp(-self.word_log_probabilities(self.transform(text)).mean(dtype=np.float64)))

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device


def _windows(words: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(words) - 1, EVALUATION_STEPS):
        window = words[start : start + EVALUATION_STEPS + 1]
        yield window[:-1], window[1:]


def load(
    store: Store, signature: str, network: str | None = None, modules: Sequence[str] = (), device: str = "cpu"
) -> TrainedStage:
    """A finished stage and one of its networks.

    Args:
        store: where it is.
        signature: the first characters are enough.
        network: the number of a network of a cohort, `average`, or `last` for the last epoch's where a better one was
            selected; None: the one whose result is the stage's.
        modules: names of modules or packages of yours from which networks may be built.
        device: where the network is.

    Raises:
        UserError: there is no such stage or network, it is damaged, or its class is not in `ban.models` or `modules`.
    """
    signature = store.by_prefix(signature)
    description, result = store.description(signature), store.result(signature)
    chosen = network or description["method"].get("reported_network") or "0"
    known = sorted({*result.get("networks", {"0": {}})} - {"ensemble"})
    if chosen not in known:
        raise UserError(f"{signature} has no network '{chosen}': its networks are {', '.join(known)}.")
    vocabulary = _vocabulary(store, signature) if result["metric"] == "perplexity" else []
    names = description["dataset"].get("class_names") or map(str, range(description["dataset"]["classes"]))
    fitted = cast("Mapping[str, Any] | None", result.get("preprocessing"))
    return TrainedStage(
        signature=signature,
        description=description,
        result=result,
        network=_network(store, signature, description, chosen, vocabulary, modules).to(device),
        classes=vocabulary or [*names][: description["dataset"]["classes"]],
        inputs=inputs_of(description["dataset"], fitted, vocabulary),
    )


def _vocabulary(store: Store, signature: str) -> list[str]:
    return store.file(signature, VOCABULARY).read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _network(
    store: Store,
    signature: str,
    description: Mapping[str, Any],
    name: str,
    vocabulary: Sequence[str],
    modules: Sequence[str],
) -> nn.Module:
    models, number = description["models"], name.partition(".")[0]
    node = models[int(number) if number.isdigit() else 0]
    if target := foreign_target(node, ("ban.models", *modules)):
        raise UserError(
            f"the network is made by {target!r}: to load it, name the module in modules=[…], if you trust it."
        )
    try:
        model = TypeAdapter(Network).validate_python(node)
    except ValidationError as error:
        raise UserError(f"{signature} was written by another version of ban: {error.errors()[0]['msg']}.") from None
    dataset = description["dataset"]
    arguments: dict[str, Any] = {"classes": dataset["classes"]}
    if "shape" in dataset:
        arguments["channels"] = dataset["shape"][0]
    if "features" in dataset:
        arguments["features"] = dataset["features"]
    if "characters" in model.constructor:
        arguments["spelling"] = torch.from_numpy(Vocabulary.of(vocabulary).spelling)
    path = store.file(signature, weights_file(name))
    network: nn.Module = build(model.constructor, **arguments)
    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit {json.dumps(model.constructor)}: {reason}.") from error
    return network.requires_grad_(False).eval()
