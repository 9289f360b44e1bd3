"""Classifiers of torchvision and timm, with the features and the last layer that methods need."""

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from ban.interfaces import Output, up_to
from ban.models.head import Head
from ban.ranges import Flag, Text

NO_SECOND_LOSS = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
"""Architectures with more than one output → options without the others."""
CHANNELS_LAST = ("swin",)
"""Beginnings of the architectures whose activations are `[batch, height, width, channels]`."""


class _Reached(Exception):
    """The forward pass is as far as it is wanted."""


class LibraryNetwork(nn.Module):
    """A network of a library. Its own code initialises it; the last linear layer computes in fp32.

    Args:
        network: the network.
        stages: name → the module whose output is that feature.
        architecture: its name, for messages.
    """

    def __init__(self, network: nn.Module, stages: Mapping[str, nn.Module], architecture: str) -> None:
        super().__init__()
        self.network, self.architecture = network, architecture
        self._features: dict[str, Tensor] = {}
        self._until: str | None = None
        for name, module in stages.items():
            if isinstance(module, nn.Sequential) and len(module) > 1:
                module[0].register_forward_hook(partial(self._record, f"{name}.first"))
            module.register_forward_hook(partial(self._record, name))  # of a method: copies of networks have their own

    def _record(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            self._features[name] = output
        if name == self._until:
            raise _Reached

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"], state: Any = None, until: str | None = None
    ) -> Output:
        """Logits and features, or only the features up to `until`.

        Raises:
            ValueError: the images are too small, or too large, for the architecture.
        """
        self._features, self._until = {}, until
        try:
            logits = self.network(inputs)
        except _Reached:
            return up_to(self._features)
        except (RuntimeError, ValueError, AssertionError) as error:
            if "memory" in f"{error}":
                raise
            size = f"{inputs.shape[2]}×{inputs.shape[3]}"
            reason = " ".join(f"{error}".split()).rstrip(".")
            raise ValueError(f"{self.architecture} cannot compute with images of {size} pixels: {reason}") from error
        finally:
            features, self._features = self._features, {}
        return Output(logits, features)


class Torchvision(LibraryNetwork):
    """A classifier of `torchvision.models`, without pre-trained weights.

    With `small_images` the first convolution is 3×3 with stride 1, and no pooling follows it, as is usual for images of
    32×32 (He et al. 2016, section 4.2). Features: `stage1`, `stage2`, … and, where a stage is a sequence of blocks,
    `stage1.first`, …. ResNets, RegNets and DenseNets have their own stages, other convolutional networks one for each
    size of their activations, and transformers none.
    `options` are more arguments of the architecture's function.

    Raises:
        ValueError: there is no such classifier, or it does not begin with a convolution that could be made smaller.
    """

    def __init__(
        self,
        architecture: Text,
        small_images: Flag = False,
        options: Mapping[str, Any] | None = None,
        *,
        classes: int,
        channels: int = 3,
    ) -> None:
        known = torchvision.models.list_models(module=torchvision.models)
        check_known(architecture, known, "torchvision")
        more = {**NO_SECOND_LOSS.get(architecture, {}), **(options or {})}
        network = torchvision.models.get_model(architecture, weights=None, num_classes=classes, **more)
        with_channels(network, channels)
        if small_images:
            for_small_images(network, architecture)
        with_head(network, classes)
        stages = {} if architecture.startswith(CHANNELS_LAST) else _stages(network)
        super().__init__(network, stages, architecture)


class Timm(LibraryNetwork):
    """A classifier of timm (Wightman 2019), without pre-trained weights. Its arguments are those of `Torchvision`.

    Features: `stage1`, `stage2`, … are those that timm's `feature_info` names, without the stem.

    Raises:
        ValueError: timm is not installed, or has no such architecture.
    """

    def __init__(
        self,
        architecture: Text,
        small_images: Flag = False,
        options: Mapping[str, Any] | None = None,
        *,
        classes: int,
        channels: int = 3,
    ) -> None:
        try:
            import timm
        except ImportError:
            raise ValueError("timm is not installed: pip install 'born-again[timm]'") from None
        check_known(architecture, timm.list_models(), "timm")
        network = timm.create_model(
            architecture, pretrained=False, num_classes=classes, in_chans=channels, **(options or {})
        )
        if small_images:
            for_small_images(network, architecture)
        with_head(network, classes)
        names: Sequence[str] = [info["module"] for info in getattr(network, "feature_info", ())]
        modules = [network.get_submodule(name) for name in names]
        after_stem = modules[1:] if len(modules) > 4 else modules
        super().__init__(network, {f"stage{k}": module for k, module in enumerate(after_stem, 1)}, architecture)


def check_known(architecture: str, known: Sequence[str], library: str) -> None:
    """Refuse an architecture that the library does not have.

    Raises:
        ValueError: it has no such one; similar names are in the message.
    """
    if architecture not in known:
        similar = difflib.get_close_matches(architecture, known, 3)
        hint = f"did you mean {', '.join(similar)}?" if similar else f"it has {', '.join(known[:8])}, …"
        raise ValueError(f"{library} has no classifier '{architecture}': {hint}")


def with_channels(network: nn.Module, channels: int) -> None:
    """Gives the first convolution fewer input channels: those weights of it that belong to the first ones."""
    name, convolution = _first_convolution(network)
    if convolution.in_channels != channels:
        _replace(network, name, _resized(convolution, channels=channels))


def for_small_images(network: nn.Module, architecture: str) -> None:
    """Makes the first convolution 3×3 with stride 1, and removes the pooling behind it.

    Raises:
        ValueError: the network cuts images into patches instead.
    """
    name, convolution = _first_convolution(network)
    if convolution.kernel_size == convolution.stride:
        raise ValueError(
            f"{architecture} cuts images into patches of {convolution.kernel_size[0]}×{convolution.kernel_size[1]} "
            "pixels, so that model.small_images does not apply; leave it out, and raise dataset.size"
        )
    _replace(network, name, _resized(convolution, small=True))
    for pool in ("maxpool", "features.pool0"):
        if any(each == pool for each, _ in network.named_modules()):
            _replace(network, pool, nn.Identity())


def with_head(network: nn.Module, classes: int) -> None:
    """Replaces the last linear layer by one that computes in fp32 and has the same weights."""
    linear = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Linear)]
    if linear and linear[-1][1].out_features == classes:
        name, last = linear[-1]
        head = Head(last.in_features, classes, bias=last.bias is not None)
        head.load_state_dict(last.state_dict())
        _replace(network, name, head)


def _first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d))


def _resized(old: nn.Conv2d, channels: int | None = None, small: bool = False) -> nn.Conv2d:
    """Another first convolution, initialised like the old one: a part of its weights."""
    size = 3 if small and old.kernel_size[0] > 3 else old.kernel_size[0]
    geometry: Any = {"stride": 1, "padding": size // 2} if small else {"stride": old.stride, "padding": old.padding}
    new = nn.Conv2d(channels or old.in_channels, old.out_channels, size, bias=old.bias is not None, **geometry)
    if size == old.kernel_size[0]:
        new.load_state_dict({**old.state_dict(), "weight": old.weight.detach()[:, : new.in_channels]})
    else:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")  # as in torchvision's ResNets
    return new


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def _stages(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that end stages, by the names that the library gives them."""
    names = [name for name, _ in network.named_modules()]
    for form in ("layer{}", "features.denseblock{}", "trunk_output.block{}"):
        found = [form.format(number) for number in range(1, 9) if form.format(number) in names]
        if found:
            return {f"stage{k}": network.get_submodule(name) for k, name in enumerate(found, 1)}
    features = getattr(network, "features", None)
    if not isinstance(features, nn.Sequential):
        return {}
    ends = [place for place, each in enumerate(features) if _shrinks(each)] + [len(features)]
    chosen = [end - 1 for end in ends if end > 0]
    return {f"stage{k}": features[end] for k, end in enumerate(dict.fromkeys(chosen), 1)}


def _shrinks(module: nn.Module) -> bool:
    """Whether it halves height and width."""
    parts = [each for each in module.modules() if isinstance(each, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)]
    return any(each.stride not in (1, (1, 1)) for each in parts)
