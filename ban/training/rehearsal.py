"""Rehearses a stage's training step on fake tensors, which have shape, type and device, but neither memory nor values.

A GPU need not be present: what cannot run without one is replaced (`_without_cuda`).
"""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ban.errors import UserError
from ban.interfaces import Batch, Output, Step, TeacherOutput
from ban.plan.stage import Parent, Stage
from ban.settings.weights import content
from ban.training import build
from ban.training.costs import StageCost
from ban.training.device import Device
from ban.training.from_file import check_fits
from ban.training.stand_in import Networks, parameters_of
from ban.training.step import START, Learner, TrainingStep


def rehearse_anew(stage: Stage, device_type: str = "cpu", networks: Networks | None = None) -> StageCost:
    """Runs the real training step once. `ban.training.costs.rehearse` remembers what it found.

    `networks`: those that need not be computed again, because an earlier rehearsal did it.

    Raises:
        UserError: the parts do not fit together, for example DKPP and two classes.
    """
    try:
        return run_step(stage, device_type, networks)
    except UserError:
        raise
    except Exception as error:
        where = _in_users_code(error, stage)
        if not where and not isinstance(error, ValueError):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        reason = f"{where}: {type(error).__name__}: {reason}" if where else reason
        if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
            reason = f"{where}: {error} needs values, and {ON_SHAPES}"
        raise UserError(f"{stage.label} ({stage.model.title} on {stage.dataset.title}): {reason}.") from error


ON_SHAPES = (
    "ban tries a step on shapes alone before it trains: use torch.where or a mask as a factor, not boolean indexing, "
    "nonzero() or item()"
)
"""What code that needs values in a rehearsal can do instead."""


def _in_users_code(error: Exception, stage: Stage) -> str | None:
    """The last line of the user's modules that the error came through; None: it is not theirs."""
    modules = {target.partition(".")[0] for target in stage.targets} - {"ban", "torch"}
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        if frame.f_globals.get("__name__", "").partition(".")[0] in modules:
            return f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
    return None


def run_step(stage: Stage, device_type: str, networks: Networks | None = None) -> StageCost:
    """Builds the training step, and runs it on a batch of fake tensors. `networks` as in `rehearse_anew`.

    Raises:
        UserError: a constructor does not accept its arguments.
        ValueError: the parts do not fit together.
    """
    build.munge(stage)
    shapes = content(stage.weights.path).shapes if stage.weights else {}  # of real tensors
    device, networks = FakeDevice(device_type), networks or Networks()
    with networks.used(stage, device_type), fake_tensors(), device.torch_device:
        spelling = build.zero_spelling(stage, device.torch_device)

        def load(parent: Parent) -> nn.Module:
            return build.network(parent.stage, parent.index, spelling).to(device.torch_device)

        with _without_cuda() if device_type == "cuda" else nullcontext():
            step = build.training_step(stage, load, device, spelling)
            _check_reported(stage, [*step.networks()])
            _check_pretrained(stage, step, load, device)
            if stage.weights:
                check_fits(stage, step.networks()["0"], shapes)
            # Batch normalisation of a single position refuses to learn from a single example.
            batch = build.zero_batch(stage, device.torch_device, min(2, stage.recipe.batch_size))
            output, targets, own, taught = _forward(stage, step, batch, networks)
            for learner in step.learners:
                replace_kernels(learner)
            step(batch, START)
    if stage.dataset.unlabelled_examples:
        _check_unlabelled(stage, *tree_map_only(Tensor, _zeros, (output, targets, batch)))
    learners = [learner.network for learner in step.learners]
    networks.learn(stage, device_type, learners[0], output, own)
    flops = 3 * own + len(learners) * taught
    return StageCost(sum(map(parameters_of, learners)), flops / batch.targets.numel(), _memories(step))


def _memories(step: TrainingStep) -> int:
    """Bytes of what a checkpoint keeps of loss terms and teacher, apart from the teacher's networks."""
    networks = [*step.teacher.published().values()]
    weights = {name for name, module in step.teacher.named_children() if module in networks}
    state = [value for name, value in step.teacher.state_dict().items() if name.partition(".")[0] not in weights]
    state += [value for learner in step.learners for value in learner.objective.state_dict().values()]
    return sum(value.nbytes for value in state if isinstance(value, Tensor))


def _forward(
    stage: Stage, training_step: TrainingStep, batch: Batch, networks: Networks
) -> tuple[Output, TeacherOutput, float, float]:
    """The first learner's output, its targets, the operations of all learners, and those of teacher and terms for one.

    The checks name the part at fault.
    """
    learners, teacher, precision = training_step.learners, training_step.teacher, training_step.precision
    with _counted(networks) as own, torch.no_grad(), precision():
        outputs = [learner(batch.views[0]) for learner in learners]
    for learner, output in zip(learners, outputs, strict=True):
        _check_output(learner, output, [*batch.targets.shape, stage.dataset.classes])
    step = Step(batch, learners, outputs, 0, START)
    with torch.no_grad(), precision():
        teacher.targets(step)  # so that what a teacher computes only once does not count
        with _counted(networks) as taught:
            targets = teacher.targets(step)
    with _counted(networks) as compared:
        for name, term in learners[0].objective.terms.items():
            _check_loss(name, term(outputs[0], targets, batch))
    return outputs[0], targets, sum(own), 3 * sum(compared) + sum(taught)


@contextmanager
def _counted(networks: Networks) -> Iterator[list[float]]:
    """A context at whose end the list holds the floating-point operations in it."""
    found, before = list[float](), networks.flops
    with FlopCounterMode(display=False) as counter:
        yield found
    found += [counter.get_total_flops(), networks.flops - before]


def _check_unlabelled(stage: Stage, output: Output, targets: TeacherOutput, batch: Batch) -> None:
    """Runs the terms on unlabelled examples, in real memory: fake tensors have no index that could be out of range."""
    batch = batch._replace(targets=torch.full_like(batch.targets, -1))
    for name, term in build.objective(stage).terms.items():
        term.prepare(output, targets)  # pyright: ignore[reportCallIssue]
        try:
            term(output, targets, batch)
        except (IndexError, RuntimeError) as error:
            raise ValueError(f"the term {name} cannot be used with unlabelled examples (target -1): {error}") from error


def _zeros(fake: Tensor) -> Tensor:
    return torch.zeros(fake.shape, dtype=fake.dtype)


def _check_pretrained(stage: Stage, step: TrainingStep, load: build.Load, device: Device) -> None:
    """Lets terms take over what a pre-training's terms have."""
    for loss in (learner.objective for learner in step.learners):
        if any(term.pretrained for term in loss.terms.values()):
            first = stage.inherits[0].parent.stage
            trained = build.training_step(first, load, device, None)
            build.inherit_terms(loss, build.stored_terms(first, trained))


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
    if learner.until is not None and learner.until not in (output.features or {}):
        raise ValueError(
            f"{name} has no feature '{learner.until}', where method.pretrain.until ends: choose one of "
            f"{', '.join(output.features or {})}"
        )
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


# Fake tensors


class FakeDevice(Device):
    """A device that need not be present."""

    @contextmanager
    def precision(self, name: str) -> Iterator[None]:
        """Autocast, which torch itself refuses to enter without the device."""
        kind = self.torch_device.type
        before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        torch.set_autocast_enabled(kind, name != "fp32")
        torch.set_autocast_dtype(kind, torch.bfloat16)
        try:
            yield
        finally:
            torch.clear_autocast_cache()
            torch.set_autocast_enabled(kind, before[0])
            torch.set_autocast_dtype(kind, before[1])


@contextmanager
def fake_tensors() -> Iterator[None]:
    """A context in which every new tensor is fake."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # Weak references from torch's memo to the weights would keep `Module.to` from replacing them.
    mode.fake_tensor_converter.set_tensor_memo = lambda *_: None  # pyright: ignore[reportAttributeAccessIssue]
    with mode, patch("torch.Tensor.__deepcopy__", _copied), patch("torch._subclasses.fake_tensor.log.disabled", True):
        yield


def _copied(tensor: Tensor, memo: dict[int, Tensor]) -> Tensor:
    """A copy with memory of its own. Torch's looks for the memory of the original."""
    copied = tensor.detach().clone()
    copied = nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
    memo[id(tensor)] = copied
    return copied


@contextmanager
def _without_cuda() -> Iterator[None]:
    """Replaces what asks for the GPU: cuDNN's LSTM, which allocates its own buffers, and the backward pass."""
    with (
        patch("torch.cuda.is_available", return_value=False),
        patch("torch.Tensor.backward"),
        torch.backends.cudnn.flags(enabled=False),
    ):
        yield


def replace_kernels(learner: Learner) -> None:
    """Replaces fused optimizers, whose kernels have no fake version, and gradients that no backward pass has made."""
    for group in learner.optimizer.param_groups:
        group["fused"] = False
    step = learner.optimizer.step

    def stepped() -> None:
        for parameter in [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        with suppress(DataDependentOutputException):  # Adam reads its number of steps
            step()

    learner.optimizer.step = stepped  # pyright: ignore[reportAttributeAccessIssue]
