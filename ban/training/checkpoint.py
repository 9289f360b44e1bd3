"""Checkpoints: the state of a training on disk."""

import functools
import math
import pickle
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict  # pydantic refuses the one of `typing` before Python 3.12

from ban.errors import UserError
from ban.store.work import Work
from ban.training.loop import BestEpoch, Training
from ban.training.step import Learner, Measured

FORMAT = 4
"""Raised when the content of checkpoints changes."""
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError)
"""What torch raises for a file that is no checkpoint, and for a state that does not fit."""


class Checkpoint(TypedDict):
    """What a checkpoint holds."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, extra="forbid")  # pyright: ignore

    format: Literal[4]
    learners: list[dict[str, Any]]
    teacher: Any
    """A state dict, with the versions of its modules as an attribute, which a copy would lose."""
    epoch: int
    step: int
    sums: list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]]
    curves: list[dict[str, float]]
    seconds: float
    best: tuple[int, float, dict[str, dict[str, Tensor]]] | None


def save(training: Training, work: Work) -> None:
    """Writes a checkpoint. Waits for the device.

    Raises:
        UserError: the training has diverged, or the file cannot be written.
    """
    state = training.state
    state.check_finite()
    content: Checkpoint = {
        "format": FORMAT,
        "learners": [learner.state_dict() for learner in training.step.learners],
        "teacher": training.step.teacher.state_dict(),
        "epoch": state.progress.epoch,
        "step": state.progress.step,
        "sums": [(sums.terms, sums.errors, sums.diagnosis) for sums in state.sums],
        "curves": state.curves,
        "seconds": state.seconds,
        "best": (state.best.epoch, state.best.value, state.best.networks) if state.best else None,
    }
    work.write_checkpoint(state.steps, functools.partial(torch.save, content))


def resume(training: Training, work: Work, device: torch.device) -> list[str]:
    """Restores the latest intact checkpoint, if there is one.

    Returns:
        The names of damaged checkpoints, which were removed.

    Raises:
        UserError: the checkpoint is that of another version of ban, or of another training.
    """
    path, damaged = work.latest_checkpoint(_size_limit(training))
    if path is None:
        return damaged
    try:
        content = _read(path, device)
        _check(content, training)
        for learner, saved in zip(training.step.learners, content["learners"], strict=True):
            learner.load_state_dict(saved)
            _check_optimizer(learner)
        training.step.teacher.load_state_dict(content["teacher"])
    except UNREADABLE as error:
        raise UserError(
            f"another version of ban wrote {path}, or it belongs to another training ({_first_line(error)}): finish "
            f"the training with that version, or remove {path.parent} to start it again."
        ) from error
    state = training.state
    state.progress = state.progress._replace(epoch=content["epoch"], step=content["step"])
    state.sums = [Measured(*sums) for sums in content["sums"]]
    state.curves, state.seconds = content["curves"], content["seconds"]
    state.best = BestEpoch(*content["best"]) if content["best"] else None
    return damaged


def _size_limit(training: Training) -> int:
    """The largest size in bytes that a checkpoint of this training can have."""
    learners = training.step.learners
    modules = [training.step.teacher, *(each for learner in learners for each in (learner.network, learner.objective))]
    tensors = [tensor for module in modules for tensor in module.state_dict().values() if isinstance(tensor, Tensor)]
    return 2**28 + 16 * sum(tensor.nbytes for tensor in tensors)


@cache
def _adapter() -> TypeAdapter[Checkpoint]:
    return TypeAdapter(Checkpoint)


def _read(path: Path, device: torch.device) -> Checkpoint:
    """The content of a checkpoint.

    Raises:
        ValueError: a part is missing or of another type; or as torch does.
    """
    try:
        return _adapter().validate_python(torch.load(path, map_location=device, weights_only=True), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "content"
        raise ValueError(f"its {name} is not valid") from error


def _check(content: Checkpoint, training: Training) -> None:
    """Checks that the parts fit the training and each other.

    Raises:
        ValueError: they do not.
    """
    progress, learners = training.state.progress, len(training.step.learners)
    epoch, step, best = content["epoch"], content["step"], content["best"]
    within = 0 <= epoch <= progress.epochs and 0 <= step <= (progress.steps_per_epoch if epoch < progress.epochs else 0)
    if not within:
        _refuse(f"epoch {epoch}, step {step} is not one of its steps")
    if [record.get("epoch") for record in content["curves"]] != [*range(1, epoch + 1)]:
        _refuse("its curves are not those of its epochs")
    if len(content["learners"]) != learners:
        _refuse(f"it has {len(content['learners'])} learners, not {learners}")
    if len(content["sums"]) != (learners if step else 0):
        _refuse("its sums are not those of its steps")
    if not math.isfinite(content["seconds"]) or content["seconds"] < 0:
        _refuse("its training time is not a time")
    if bool(best) != bool(training.selection_metric and epoch) or (best and not 1 <= best[0] <= epoch):
        _refuse("its best epoch is not one of its epochs")
    if best and {name: _shapes(state) for name, state in best[2].items()} != {
        name: _shapes(network.state_dict()) for name, network in training.step.networks().items()
    }:
        _refuse("the networks of its best epoch have other shapes")


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _check_optimizer(learner: Learner) -> None:
    """Checks the restored moments, which `load_state_dict` does not.

    Raises:
        ValueError: they have other shapes than their parameters.
    """
    for parameter, state in learner.optimizer.state.items():
        for name in ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            if isinstance(state.get(name), Tensor) and state[name].shape != parameter.shape:
                _refuse(f"its {name} has another shape than the parameter")


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
