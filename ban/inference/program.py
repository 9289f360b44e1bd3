"""Networks as programs that run without `ban`: torch's own format, and ONNX."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ban.errors import UserError
from ban.inference.inputs import ImageInputs, RowInputs
from ban.inference.trained import TrainedStage

TOLERANCE = 1e-5
"""The largest difference of a probability that ONNX may make."""
ONNX = ("onnx", "onnxscript", "onnxruntime")


class Classifier(nn.Module):
    """Normalisation and network: from pixels or features to logits."""

    def __init__(self, normalisation: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.normalisation, self.network = normalisation, network

    def forward(self, inputs: Num[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """`inputs`: images, `[batch, channels, height, width]`, values from 0 to white; or rows `[batch, features]`."""
        return self.network(self.normalisation(inputs)).logits.float()


class NextWord(nn.Module):
    """One step of a language model: from a word of each row and the carried state to the logits of the next word."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, words: Int64[Tensor, " batch"], state: Float[Tensor, "layers 2 batch units"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "layers 2 batch units"]]:
        """`state`: hidden and cell state of each layer, zeros at the beginning."""
        output = self.network(words[None], [(layer[0][None], layer[1][None]) for layer in state.unbind(0)])
        return output.logits[0].float(), torch.stack([torch.cat(each) for each in output.state])


class Program:
    """A trained network as a program.

    Raises:
        UserError: the stage does not store what was fitted to its training data, or torch cannot export the network.
    """

    def __init__(self, stage: TrainedStage) -> None:
        generator = torch.Generator().manual_seed(0)
        inputs = stage.transform
        if isinstance(inputs, ImageInputs):
            shape = (inputs.channels, inputs.height, inputs.width)
            pixels = torch.randint(inputs.white + 1, (5, *shape), generator=generator).float()
            self.module: nn.Module = Classifier(inputs.normalisation(), stage.network)
            self.names, self.examples, self.batch = ("inputs",), (pixels,), (0,)
        elif isinstance(inputs, RowInputs):
            uniform = torch.rand(5, len(inputs.low), dtype=torch.float64, generator=generator)
            rows = uniform * torch.tensor(inputs.span) + torch.tensor(inputs.low)
            self.module = Classifier(inputs.normalisation(), stage.network)
            self.names, self.examples, self.batch = ("inputs",), (rows,), (0,)
        else:
            words = torch.randint(len(stage.classes), (5,), generator=generator)
            with torch.no_grad():
                state = torch.stack([torch.cat(each) for each in stage.network(words[None]).state])
            self.module = NextWord(stage.network)
            self.names, self.examples, self.batch = ("words", "state"), (words, torch.zeros_like(state)), (0, 2)
        self.module.eval()
        self.exported = self._export(stage.signature)

    def inputs(self, size: int) -> tuple[Tensor, ...]:
        """Examples of the inputs for a batch of up to five."""
        found = [example.narrow(axis, 0, size) for example, axis in zip(self.examples, self.batch, strict=True)]
        return tuple(each.contiguous() for each in found)

    def _export(self, signature: str) -> ExportedProgram:
        dynamic = tuple({axis: Dim.DYNAMIC} for axis in self.batch)
        try:
            with _quiet():  # with gradients: networks may compute in other ways without, and cache values
                return torch.export.export(self.module, self.inputs(2), dynamic_shapes=dynamic)
        except Exception as error:  # of many types, for whatever torch cannot trace
            reason = next((line.strip() for line in f"{error}".splitlines() if line.strip()), type(error).__name__)
            raise UserError(f"torch cannot export the network of {signature}: {reason}.") from error

    def save(self, path: Path) -> None:
        """Writes the program, and checks that it computes what the network computes.

        Raises:
            UserError: it does not.
        """
        with _quiet():
            torch.export.save(self.exported, path)
            again = torch.export.load(path).module()
        self._check(lambda inputs: _outputs(again(*inputs))[0].softmax(-1), path.name, 1e-6)

    def save_onnx(self, path: Path) -> None:
        """Writes it as ONNX, and checks it with onnxruntime.

        Raises:
            UserError: it cannot be written so, or computes something else.
        """
        from onnxruntime import InferenceSession  # pyright: ignore[reportMissingTypeStubs]

        try:
            with _quiet():
                written: Any = torch.onnx.export(self.exported, dynamo=True, verbose=False, input_names=self.names)
                written.save(path)
        except Exception as error:
            raise UserError(f"torch cannot write this network as ONNX: {f'{error}'.splitlines()[0]}.") from error
        session: Any = InferenceSession(path)

        def run(inputs: Sequence[Tensor]) -> Tensor:
            given: Mapping[str, Any] = {name: tensor.numpy() for name, tensor in zip(self.names, inputs, strict=True)}
            return torch.from_numpy(np.asarray(session.run(None, given)[0])).softmax(-1)

        self._check(run, path.name, TOLERANCE)

    @torch.no_grad()
    def _check(self, run: Any, name: str, tolerance: float) -> None:
        for size in (1, 5):
            inputs = self.inputs(size)
            expected = _outputs(self.module(*inputs))[0].softmax(-1)
            difference = float((run(inputs) - expected).abs().max())
            if not difference <= tolerance:
                raise UserError(f"{name} computes other probabilities than the network (by up to {difference:.1e}).")


def can_write_onnx() -> bool:
    """Whether the packages are installed that write and check ONNX files."""
    return all(find_spec(name) for name in ONNX)


def _outputs(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and its exporters say about themselves."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
