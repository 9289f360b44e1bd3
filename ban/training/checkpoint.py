"""Checkpoints: the state of a training on disk."""

import functools
import pickle
from contextlib import suppress
from typing import Any

import torch

from ban.errors import UserError
from ban.store.store import Work
from ban.training.loop import BestEpoch, Training
from ban.training.step import Measured

FORMAT = 4
"""Raised when the content of checkpoints changes."""


def save(training: Training, work: Work) -> None:
    """Writes a checkpoint. Waits for the device.

    Raises:
        UserError: the training has diverged, or the file cannot be written.
    """
    state = training.state
    state.check_finite()
    content = {
        "format": FORMAT,
        "learners": [learner.state_dict() for learner in training.step.learners],
        "teacher": training.step.teacher.state_dict(),
        "epoch": state.progress.epoch,
        "step": state.progress.step,
        "sums": [tuple(sums) for sums in state.sums],
        "curves": state.curves,
        "seconds": state.seconds,
        "best": tuple(state.best) if state.best else None,
    }
    work.write_checkpoint(state.steps, functools.partial(torch.save, content))


def resume(training: Training, work: Work, device: torch.device) -> list[str]:
    """Restores the latest intact checkpoint, if there is one.

    Returns:
        The names of damaged checkpoints, which were removed.

    Raises:
        UserError: another version of ban wrote the checkpoint.
    """
    path, damaged = work.latest_checkpoint()
    if path is None:
        return damaged
    content: dict[str, Any] = {}
    with suppress(pickle.UnpicklingError, RuntimeError, EOFError):  # intact, but written by another program
        content = torch.load(path, map_location=device, weights_only=True)
    if content.get("format") != FORMAT:
        raise UserError(
            f"another version of ban wrote {path}: finish the training with that version, or remove {path.parent} to "
            "start it again."
        )
    for learner, saved in zip(training.step.learners, content["learners"], strict=True):
        learner.load_state_dict(saved)
    training.step.teacher.load_state_dict(content["teacher"])
    state = training.state
    state.progress = state.progress._replace(epoch=content["epoch"], step=content["step"])
    state.sums = [Measured(*sums) for sums in content["sums"]]
    state.curves, state.seconds = content["curves"], content["seconds"]
    state.best = BestEpoch(*content["best"]) if content["best"] else None
    return damaged
