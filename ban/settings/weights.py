"""Weights of trained networks in the user's files: what is read, and its hash, which the signature covers.

A file is read once when a command plans, and again by the process that tests the network.
"""

import functools
import hashlib
import json
import os
import re
import stat
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from rich.filesize import decimal

from ban.errors import UserError
from ban.settings.schema import Settings

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 2**33
"""Bytes of the largest file: two thousand million weights."""
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training programs save the weights, beside other things."""
PREFIXES = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before the names of all weights."""
FLOATING = ("float16", "bfloat16", "float32", "float64")
WHOLE = ("bool", "uint8", "int8", "int16", "int32", "int64")
SAVE = "save the weights alone with torch.save(network.state_dict(), FILE)"
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor → its type and its shape."""


class Content(NamedTuple):
    """What is in a file, without the weights themselves."""

    sha256: str
    """Of names, types, shapes and values: the same weights have one hash, however they were saved."""
    converted: tuple[str, ...]
    """Types of weights that were converted to float32."""
    shapes: Shapes


def with_weights(settings: Settings) -> Settings:
    """The same settings, with the hash of each file of weights.

    Raises:
        UserError: a file cannot be read, does not hold the weights of a network, or holds the same as another.
    """
    teacher = settings.teacher
    if teacher.weights is None:
        return settings
    hashes = [content(path).sha256 for path in teacher.weights]
    for path, digest in zip(teacher.weights, hashes, strict=True):
        if hashes.count(digest) > 1:
            raise UserError(f"teacher.weights: {path} holds the same weights as another of the files: leave it out.")
    return replace(settings, teacher=replace(teacher, weights_sha256=hashes))


def content(path: Path) -> Content:
    """What is in a file; read once for all jobs of a sweep.

    Raises:
        UserError: as `read` does.
    """
    status = _status(path)
    return _content(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.cache
def _content(path: Path, *_version: int) -> Content:
    state, types = read(path)
    return Content(sha256_of(state), types, shapes_of(state))


def shapes_of(state: Mapping[str, "Tensor"]) -> Shapes:
    """The types and shapes of tensors."""
    return {name: (_type(tensor), tuple(tensor.shape)) for name, tensor in state.items()}


def sha256_of(state: Mapping[str, "Tensor"]) -> str:
    """The hash of names, types, shapes and values, in the order of the names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(json.dumps([name, _type(tensor), [*tensor.shape]]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read(path: Path) -> tuple[dict[str, "Tensor"], tuple[str, ...]]:
    """The weights in a file of safetensors or of torch, floating-point ones as float32.

    Returns:
        Name → tensor on the CPU, and the other types that were converted.

    Raises:
        UserError: the file is missing or something else, or its weights cannot be used.
    """
    status = _status(path)
    if not stat.S_ISREG(status.st_mode):
        _refuse(path, "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
    if not status.st_size:
        _refuse(path, "is empty")
    if status.st_size > LIMIT:
        _refuse(path, f"has {decimal(status.st_size)}, more than the {decimal(LIMIT)} that weights can have")
    try:
        path.open("rb").close()
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}")
    state = without_prefixes(_unwrapped(path, _loaded(path)))
    types = dict.fromkeys(_type(tensor) for tensor in state.values())
    converted = tuple(each for each in types if each in FLOATING and each != "float32")
    return {name: _checked(path, name, tensor) for name, tensor in state.items()}, converted


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        _refuse(
            path,
            "does not exist; if its network was tested or taught already, `ban stages` lists it, and "
            "weights.safetensors in its folder is the same teacher",
        )
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}")


def _loaded(path: Path) -> object:
    import torch
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    is_safe = path.suffix == ".safetensors"
    try:
        with warnings.catch_warnings(action="ignore"):  # about old files, and about tensors that are refused below
            return load_file(path) if is_safe else cast("object", torch.load(path, "cpu", weights_only=True))
    except Exception as error:  # what torch raises for a file that is not its own depends on the bytes
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            _refuse(path, f"holds an object of {found[1]}; reading it could run code, so only tensors are read: {SAVE}")
        kind = "safetensors" if is_safe else "torch.save"
        _refuse(path, f"is damaged, or not a file of {kind}: name one that ends in .safetensors, or {SAVE}")


def _unwrapped(path: Path, loaded: object) -> dict[str, "Tensor"]:
    """The state dict in what a file holds."""
    from torch import Tensor

    if not isinstance(loaded, Mapping):
        _refuse(path, f"holds a {type(loaded).__name__}, not the weights of a network by name: {SAVE}")
    node = cast("Mapping[Any, Any]", loaded)
    node = next((node[key] for key in WRAPPERS if isinstance(node.get(key), Mapping)), node)
    if not node:
        _refuse(path, "holds no weights")
    for name, value in node.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            _refuse(path, f"holds {name!r:.80} ({kind}), but only tensors under their names are expected: {SAVE}")
    return dict(node)


def without_prefixes(state: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The same tensors, without what `DataParallel` and `torch.compile` put before all names."""
    while prefix := next((each for each in PREFIXES if state and all(name.startswith(each) for name in state)), ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _checked(path: Path, name: str, tensor: "Tensor") -> "Tensor":
    """A tensor as it is used."""
    import torch

    kind = _type(tensor)
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or kind not in (*FLOATING, *WHOLE):
        _refuse(path, f"holds {name} as {kind}, {tensor.layout}, on {tensor.device}: save dense weights as float32")
    if kind in WHOLE:
        return tensor.detach()
    tensor = tensor.detach().float()
    if not tensor.isfinite().all():
        count = int((~tensor.isfinite()).sum())
        _refuse(path, f"holds {count} of {tensor.numel()} values of {name} that are not finite numbers in float32")
    return tensor


def _type(tensor: "Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise UserError(f"teacher.weights: {path} {reason}.")
