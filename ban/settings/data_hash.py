"""The content of a user's data, as a hash: the signature covers what is read, not only the code that reads it.

The data set's function is therefore called once when a command plans, on the CPU and with `split_seed` 0, so that all
seeds have one hash.
"""

# pyright: reportUnknownMemberType=false

import functools
import hashlib
import json
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from ban.errors import UserError
from ban.settings.construct import build
from ban.settings.datasets import Dataset
from ban.settings.schema import Machine, Settings
from ban.settings.types import Node

MEMBERS = ("examples", "examples_per_step", "steps_per_epoch", "held_out", "epoch", "evaluation", "recorded")
"""What every data set has (`ban.interfaces.Data`)."""


def with_content(settings: Settings) -> Settings:
    """The same settings, with the hash of the data if they come from a user's function.

    Raises:
        UserError: the function fails, or returns something that cannot be trained on.
    """
    dataset = settings.dataset
    if dataset.function.startswith("ban."):
        return settings
    content = _content(*_call(dataset, settings.machine))
    return replace(settings, dataset=replace(dataset, content_sha256=content))


def verify(dataset: Dataset, machine: Machine, data: Any) -> None:
    """Check that data are those that the signature names.

    Raises:
        UserError: they have changed since the plan was made, or differ from call to call.
    """
    expected, found = dataset.content_sha256, getattr(data, "content", None)
    if expected is None or found is None or found == expected:
        return
    if _content.__wrapped__(*_call(dataset, machine)) != expected:  # else they depend on the seed
        raise UserError(
            f"{dataset.function} returned other data than when this stage was planned: start the command again if the "
            "data have changed, and use a fixed seed if they are random."
        )


def _call(dataset: Dataset, machine: Machine) -> tuple[str, str, bool, bool]:
    """The function and its arguments, apart from what does not change the content but costs time."""
    node = {key: value for key, value in dataset.constructor_arguments.items() if key != "whitening"}
    if "split_seed" in node:
        node["split_seed"] = 0
    return json.dumps(node, sort_keys=True), str(machine.data_dir), machine.download, dataset.is_text


@functools.cache
def _content(arguments: str, data_dir: str, download: bool, is_text: bool) -> str:
    """The hash; in a sweep, once for all jobs with the same data."""
    import torch

    node: Node = json.loads(arguments)
    given: dict[str, Any] = {"batch_size": 1, "steps_per_epoch": None, "device": torch.device("cpu")}
    given |= {"data_dir": Path(data_dir), "download": download} | ({"unroll": 1} if is_text else {})
    try:
        data = build(node, **given)
        missing = [name for name in MEMBERS if not hasattr(data, name)]
        if missing:
            raise UserError(
                f"{node['_target_']} returns {type(data).__name__}, which has no {missing[0]}: it must return a "
                "ban.data.images.Images, a ban.data.tabular.Tabular, or an object like them."
            )
        return getattr(data, "content", None) or _of_batches(data, node)
    except UserError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{node['_target_']}: {frame.filename}, line {frame.lineno}, in {frame.name}: {type(error).__name__}: "
            f"{reason}."
        ) from error


def _of_batches(data: Any, node: Node) -> str:
    """Of data that do not say themselves what they contain: of all examples that are evaluated. It checks them too."""
    digest = hashlib.sha256()
    for split in ("train", *sorted(data.held_out)):
        for number, batch in enumerate(data.evaluation(split)):
            if wrong := _wrong_with(batch, node):
                raise UserError(f"{node['_target_']}: batch {number} of evaluation('{split}') has {wrong}.")
            for tensor in (batch.views[0], batch.targets):
                digest.update(f"{tensor.dtype} {[*tensor.shape]}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _wrong_with(batch: Any, node: Node) -> str | None:
    """What cannot be trained on in a batch; None: nothing."""
    inputs, targets = batch.views[0], batch.targets
    expected = [*node["shape"]] if "shape" in node else [node["features"]] if "features" in node else None
    if expected and [*inputs.shape[1:]] != expected:
        return f"inputs of the shape {[*inputs.shape]}, not [batch, {', '.join(map(str, expected))}]"
    if inputs.is_floating_point() and not inputs.isfinite().all():
        return f"an input that is not finite, of example {int((~inputs.isfinite()).nonzero()[0, 0])}"
    if targets.is_floating_point() or targets.is_complex() or targets.element_size() != 8:
        return f"targets of the type {targets.dtype}, not torch.int64"
    if not ((targets >= 0) & (targets < node["classes"])).all():
        return f"targets from {int(targets.min())} to {int(targets.max())}, not from 0 to {node['classes'] - 1}"
    return None
