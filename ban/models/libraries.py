"""Image classifiers of torchvision and timm, with random initial weights."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    unset_fake_temporarily,
)

from ban.errors import UserError
from ban.interfaces import Output, up_to
from ban.models.head import Head
from ban.models.initialisation import he_normal
from ban.ranges import Text

STAGES = {
    "ConvNeXt": r"features\.[1357]",
    "DenseNet": r"features\.denseblock\d",
    "EfficientNet": r"features\.\d",
    "GoogLeNet": r"inception(3b|4e|5b)",
    "Inception3": r"Mixed_(5d|6e|7c)",
    "MaxVit": r"blocks\.\d",
    "MNASNet": r"layers\.(8|9|1[0-3])",
    "RegNet": r"trunk_output\.block\d",
    "ResNet": r"layer\d",
    "ShuffleNetV2": r"stage\d",
    "SwinTransformer": r"features\.[1357]",
}
"""A class of torchvision → the names of its stages. Those of other classes end where the next layer halves the size."""
SMALL = {
    "ConvNeXt": None,
    "DenseNet": "features.pool0",
    "EfficientNet": None,
    "MNASNet": None,
    "MobileNetV2": None,
    "MobileNetV3": None,
    "RegNet": None,
    "ResNet": "maxpool",
    "ShuffleNetV2": "maxpool",
}
"""A class of torchvision that can be made for small images → its first pooling layer."""


def _torchvision_classifier(name: str) -> str:
    from torchvision import models

    return _known(name, "torchvision", models.list_models(module=models))


def _timm_network(name: str) -> str:
    try:
        import timm
    except ImportError:
        raise UserError("model=timm needs the package timm: pip install 'born-again[timm]'.") from None

    return _known(name, "timm", timm.list_models())


def _known(name: str, library: str, names: Sequence[str]) -> str:
    if name in names:
        return name
    near = difflib.get_close_matches(name.partition(".")[0], names) or ["resnet18"]  # after a dot: timm's weights
    advice = "must be a classifier of {library}, such as {near}"
    raise PydanticCustomError("no_architecture", advice, {"library": library, "near": " or ".join(near)})


Stage = tuple[str | None, str]
"""The names of a stage's first block, if it has blocks, and of the layer whose output is the stage's."""


class Reached(Exception):
    """The feature at which a forward pass ends has been computed."""


class Classifier(nn.Module):
    """A library's network, which gives an `Output`.

    Its last layer, if linear, computes in fp32, like those of this package. The weights of the library's network are
    stored under `network.`.

    Features: `stem` (the first convolution), the stages as `stage1`, `stage2`, …, `stage1.first`, … (after a stage's
    first block, where it has blocks), and `pooled` (what the last layer reads, if it is linear).

    Args:
        architecture: the network's name in messages.
        network: as the library makes it.
        head: the name of its last layer.
        stages: the names of each stage's first block, if it has blocks, and of the stage.
        channels_last: whether their outputs are `[batch, height, width, channels]`.
    """

    library: ClassVar[str]
    """The package that defines the network."""

    def __init__(
        self, architecture: str, network: nn.Module, head: str | None, stages: Iterable[Stage], channels_last: bool
    ) -> None:
        super().__init__()
        self.architecture, self.network, self.channels_last = architecture, network, channels_last
        self._features: dict[str, Tensor] = {}
        self._until: str | None = None
        for name, layer in self._named_layers(stages):
            layer.register_forward_hook(partial(self._keep_output, name))
        last: Any = network.get_submodule(head) if head else None
        if head and type(last).__name__ == "Linear":  # timm has one of its own, for TorchScript
            made = Head(last.in_features, last.out_features, last.bias is not None, device="meta")  # draws nothing
            made.weight, made.bias = last.weight, last.bias
            network.set_submodule(head, made)
            made.register_forward_pre_hook(self._keep_input)

    def _named_layers(self, stages: Iterable[Stage]) -> Iterator[tuple[str, nn.Module]]:
        """The layers whose outputs are features."""
        if stem := _first_convolution(self.network):
            yield "stem", self.network.get_submodule(stem)
        for number, (first, stage) in enumerate(stages, start=1):
            if first:
                yield f"stage{number}.first", self.network.get_submodule(first)
            yield f"stage{number}", self.network.get_submodule(stage)

    # Deep copies of bound methods are bound to the copy, so a copied network keeps its own features.

    def _keep_output(self, name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            moved = self.channels_last and output.ndim == 4 and name != "stem"
            self._features[name] = output.permute(0, 3, 1, 2) if moved else output
            if name == self._until:
                raise Reached

    def _keep_input(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features["pooled"] = inputs[0]

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"], state: Any = None, until: str | None = None
    ) -> Output:
        """Logits and features, or only the features up to `until`.

        Raises:
            ValueError: in the rehearsal of a plan, the network cannot be computed for images of this size.
        """
        self._features, self._until = {}, until
        try:
            logits = self.network(inputs)
        except Reached:
            return up_to(self._features)
        except (AssertionError, RuntimeError, ValueError) as error:
            if not isinstance(inputs, FakeTensor):  # the rehearsal has passed, so the size is not the cause
                raise
            raise ValueError(self._explained(inputs, str(error).partition("\n")[0].rstrip("."))) from error
        finally:
            features, self._features = self._features, {}  # free with the output
        return Output(logits, features)

    def _explained(self, inputs: Tensor, reason: str) -> str:
        alone, size = len(inputs) == 1, "×".join(map(str, inputs.shape[2:]))
        advice = "choose another size or architecture, or set the architecture's own option for the size if it has one"
        return (
            f"{self.architecture} cannot be computed for {'a single image' if alone else 'images'} of {size} pixels "
            f"({reason}): {'raise recipe.batch_size' if alone else advice}"
        )


class Torchvision(Classifier):
    """A classifier of `torchvision.models` (Marcel and Rodriguez 2010), without auxiliary outputs.

    With `small_images`, as is usual for 32×32 pixels, the first convolution is 3×3 with stride 1, and no pooling
    follows it. Such a convolution, or one for images that do not have three channels, is drawn from N(0, 2 / fan_out)
    (He et al. 2015). All other initial weights are those that torchvision draws. `options` go to the architecture.

    Raises:
        ValueError: the architecture does not take the options, or has no version for small images.
    """

    library = "torchvision"

    def __init__(
        self,
        architecture: Annotated[Text, AfterValidator(_torchvision_classifier)],
        small_images: bool = False,
        *,
        classes: int,
        channels: int = 3,
        **options: Any,
    ) -> None:
        from torchvision import models

        _refuse(options, "weights", "num_classes", "aux_logits", "init_weights", "progress")
        given = {"aux_logits": False, "init_weights": True} if architecture in ("googlenet", "inception_v3") else {}
        network = _made(models.get_model, architecture, options, num_classes=classes, **given)
        kind = type(network).__name__
        if small_images and kind not in SMALL:
            raise ValueError(f"small_images is for {', '.join(SMALL)}, and not for {architecture}: leave it out")
        if small_images or channels != 3:
            _replace_stem(network, channels, small_images)
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        head = linear[-1] if linear else None
        super().__init__(architecture, network, head, _stages(network), kind == "SwinTransformer")


class Timm(Classifier):
    """A classifier of timm (Wightman 2019). `options` go to the architecture, such as `img_size`.

    Its stages are those of timm's `feature_info`, without a single layer in front of the first.

    Raises:
        ValueError: the architecture does not take the options.
    """

    library = "timm"

    def __init__(
        self,
        architecture: Annotated[Text, AfterValidator(_timm_network)],
        *,
        classes: int,
        channels: int = 3,
        **options: Any,
    ) -> None:
        import timm

        _refuse(options, "pretrained", "pretrained_cfg", "checkpoint_path", "num_classes", "in_chans", "features_only")
        network = _made(timm.create_model, architecture, options, num_classes=classes, in_chans=channels)
        layers, last = dict(network.named_modules()), network.get_classifier()  # pyright: ignore[reportCallIssue]
        head = next((name for name, layer in layers.items() if layer is last), None)
        names = [entry.get("module") for entry in getattr(network, "feature_info", ())]
        names = [name for name in names if name in layers]  # those of some architectures are not there
        if names and not [*layers[names[0]].children()]:
            del names[0]
        stages = [(_first_block(network, name), name) for name in names]
        super().__init__(architecture, network, head, stages, getattr(network, "output_fmt", "NCHW") == "NHWC")


def _refuse(options: dict[str, Any], *names: str) -> None:
    if found := [name for name in names if name in options]:
        raise ValueError(
            f"{found[0]} cannot be set: initial weights are random, and classes and channels are those of the data"
        )


def _made(make: Callable[..., nn.Module], architecture: str, options: dict[str, Any], **fixed: Any) -> nn.Module:
    """The network. Its constructor may read values of tensors, which fake ones lack: it gets real ones, then fake."""
    try:
        try:
            return make(architecture, **fixed, **options)
        except (DataDependentOutputException, DynamicOutputShapeException):
            with unset_fake_temporarily(), torch.device("cpu"):
                network = make(architecture, **fixed, **options)
            return network._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
    except Exception as error:
        if not options:
            raise
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ValueError(f"{architecture} cannot be made with {given}: {error}") from None


def _replace_stem(network: nn.Module, channels: int, small_images: bool) -> None:
    """Replaces the first convolution, and for small images the pooling after it."""
    name = _first_convolution(network) or ""
    first: Any = network.get_submodule(name)
    shape = (3, 1, 1) if small_images else (first.kernel_size, first.stride, first.padding)
    new = nn.Conv2d(channels, first.out_channels, *shape, bias=first.bias is not None)
    he_normal(new)
    network.set_submodule(name, new)
    if small_images and (pool := SMALL[type(network).__name__]):
        network.set_submodule(pool, nn.Identity())


def _first_convolution(network: nn.Module) -> str | None:
    return next((name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)


def _first_block(network: nn.Module, stage: str) -> str | None:
    for name in (f"{stage}.blocks", stage):
        with suppress(AttributeError):
            blocks = network.get_submodule(name)
            if isinstance(blocks, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                return next((f"{name}.{child}" for child, _ in blocks.named_children()), None)
    return None


def _stages(network: nn.Module) -> list[Stage]:
    """The stages of a network of torchvision; none of a vision transformer.

    Stem and last convolution are no parts of a stage, where they are made of one convolution with its normalisation.
    """
    from torchvision.ops import Conv2dNormActivation

    if pattern := STAGES.get(type(network).__name__):
        named = [name for name, module in network.named_modules() if not isinstance(module, Conv2dNormActivation)]
        return [(_first_block(network, name), name) for name in named if re.fullmatch(pattern, name)]
    groups: list[list[tuple[str, nn.Module]]] = [[]]
    for name, layer in getattr(network, "features", nn.Sequential()).named_children():
        pools = isinstance(layer, nn.MaxPool2d)
        if pools or getattr(layer, "_is_cn", False):  # torchvision's mark of a block with a stride
            groups.append([])
        if not pools and not isinstance(layer, Conv2dNormActivation):
            groups[-1].append((f"features.{name}", layer))
    blocks = [[name for name, layer in group if [*layer.children()]] for group in groups]
    return [(next(iter(inner), None), group[-1][0]) for group, inner in zip(groups, blocks, strict=True) if group]
