"""Checks on torch's meta device that the parts of a stage fit together: no data, memory or time is needed."""

import traceback
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ban.errors import UserError
from ban.interfaces import Output, Step
from ban.plan.stage import Parent, Stage
from ban.training import build
from ban.training.device import Device
from ban.training.step import START, Learner, TrainingStep


class StageCost(NamedTuple):
    """The size of a stage's training."""

    parameters: int
    training_flops: float
    """Floating-point operations per training example or word: student forward and backward, its teachers forward."""


def check_shapes(stage: Stage) -> StageCost:
    """Builds the training step, and computes the forward passes and the losses of one batch.

    Raises:
        UserError: the parts do not fit together, for example DKPP and two classes.
    """
    if stage.step_kind not in _CHECKED:
        try:
            _CHECKED[stage.step_kind] = _checked(stage)
        except UserError:
            raise
        except Exception as error:
            where = _in_users_code(error, stage)
            if not where and not isinstance(error, ValueError):
                raise
            reason = " ".join(str(error).split()).rstrip(".")
            reason = f"{where}: {type(error).__name__}: {reason}" if where else reason
            raise UserError(f"{stage.label} ({stage.model.title} on {stage.dataset.title}): {reason}.") from error
    return _CHECKED[stage.step_kind]


_CHECKED: dict[str, StageCost] = {}


def _in_users_code(error: Exception, stage: Stage) -> str | None:
    """The last line of the user's modules that the error came through; None: it is not theirs."""
    modules = {target.partition(".")[0] for target in stage.targets} - {"ban", "torch"}
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        if frame.f_globals.get("__name__", "").partition(".")[0] in modules:
            return f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
    return None


def _checked(stage: Stage) -> StageCost:
    build.munge(stage)
    device = Device("meta")
    with device.torch_device:
        spelling = build.zero_spelling(stage, device.torch_device)

        def load(parent: Parent) -> nn.Module:
            return build.network(parent.stage, parent.index, spelling)

        step = build.training_step(stage, load, device, spelling)
        _check_reported(stage, [*step.networks()])
        return _cost(stage, step)


def _cost(stage: Stage, training_step: TrainingStep) -> StageCost:
    learners, teacher = training_step.learners, training_step.teacher
    batch = build.zero_batch(stage, torch.device("meta"))
    with FlopCounterMode(display=False) as own, torch.no_grad():
        outputs = [learner(batch.views[0]) for learner in learners]
    for learner, output in zip(learners, outputs, strict=True):
        _check_output(learner, output, [*batch.targets.shape, stage.dataset.classes])
    step = Step(batch, learners, outputs, 0, START)
    teacher.targets(step)  # so that what a teacher computes only once does not count
    with FlopCounterMode(display=False) as taught, torch.no_grad():
        targets = teacher.targets(step)
    for name, term in learners[0].objective.terms.items():
        _check_loss(name, term(outputs[0], targets, batch))
        learners[0].objective.weights[name](START)
    parameters = sum(parameter.numel() for learner in learners for parameter in learner.network.parameters())
    flops = 3 * own.get_total_flops() + len(learners) * taught.get_total_flops()
    return StageCost(parameters, flops / batch.targets.numel())


def _check_reported(stage: Stage, networks: Sequence[str]) -> None:
    if unknown := [name for name in stage.reported_networks if name not in networks]:
        raise ValueError(
            f"method.reported_network is {unknown[0]}, but the training gives the networks {', '.join(networks)}: "
            "choose one of them, or leave it out"
        )


def _check_output(learner: Learner, output: object, shape: list[int]) -> None:
    name = type(learner.network).__name__
    if not isinstance(output, Output) or not isinstance(output.logits, Tensor):
        raise ValueError(f"{name} must return a ban.interfaces.Output with logits, not {_describe(output)}")
    if learner.until is None and list(output.logits.shape) != shape:
        raise ValueError(f"{name} returns logits of the shape {list(output.logits.shape)}, not {shape}")


def _check_loss(name: str, value: object) -> None:
    if not isinstance(value, Tensor) or value.ndim:
        raise ValueError(
            f"the term {name} returns {_describe(value)}, but it must return a scalar tensor, for example the mean "
            "over the batch"
        )


def _describe(value: object) -> str:
    return f"a tensor of the shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
