"""Objects from a stage's plain data: where configuration ends."""

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ban.data.munge import Munge
from ban.errors import UserError
from ban.interfaces import Batch, Data, Output, Progress, Step, Teacher, TeacherContext, Term
from ban.plan.stage import Inheritance, Parent, Stage
from ban.schedules import Constant
from ban.settings.schema import LabelledDataset, plain
from ban.streams import stream
from ban.training.loop import Learner, Objective, reseed
from ban.training.machine import Machine

Load = Callable[[Parent], nn.Module]
"""A trained network of another stage."""
DESCRIPTION = ("name", "title", "kind")
"""Settings of data sets and models that are about them, and not arguments."""


def build(node: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
    """An object from its part of the configuration, and from what only the running program has.

    Raises:
        UserError: the options do not fit.
    """
    kept = {key: value for key, value in node.items() if key != "source_sha256"}
    try:
        return instantiate(kept, _partial_=True, _convert_="all")(*arguments, **options)
    except (InstantiationException, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"{node['_target_']}: {' '.join(str(cause).split())}") from error


def network(stage: Stage, index: int = 0, spelling: Tensor | None = None) -> nn.Module:
    """A network of the stage with freshly drawn weights, from torch's global generator.

    `spelling` is the characters of each word; only networks that read characters need it.
    """
    model, given = stage.models[index], stage.dataset.network_arguments
    if model.checkpointing is not None:
        given["checkpointing"] = model.checkpointing
    if "characters" in model.constructor:
        given["spelling"] = spelling
    return build(model.constructor, **given)


def data(stage: Stage, machine: Machine, device: torch.device) -> Data:
    """The stage's data set on the device."""
    recipe = stage.recipe
    given = {"batch_size": recipe.batch_size, "steps_per_epoch": recipe.steps_per_epoch, "device": device}
    if recipe.unroll is not None:
        given["unroll"] = recipe.unroll
    if synthetic := munge(stage):
        given["munge"] = synthetic
    return build(
        stage.dataset.constructor_arguments,
        data_dir=machine.data_dir,
        download=machine.download,
        **given,
    )


def munge(stage: Stage) -> Munge | None:
    """How the stage's synthetic training examples are made, if it wants any.

    Raises:
        UserError: an option is impossible.
    """
    options = stage.dataset.munge if isinstance(stage.dataset, LabelledDataset) else None
    return None if options is None else build({"_target_": "ban.data.munge.Munge", **options})


def objective(stage: Stage) -> Objective:
    """The method's named, weighted terms."""
    terms = {name: build(term.constructor) for name, term in stage.method.terms.items()}
    return Objective(terms, {name: _weight(term.weight) for name, term in stage.method.terms.items()})


def _weight(value: Any) -> Any:
    return build(value) if isinstance(value, Mapping) else Constant(value)


class Class(NamedTuple):
    """Everybody in a training."""

    learners: list[Learner]
    """Without their optimizers."""
    teacher: Teacher


def assemble(
    stage: Stage,
    load: Load,
    device: torch.device,
    spelling: Tensor | None,
    examples: int,
    data: Data | None = None,
) -> Class:
    """Students with fresh or inherited weights, their losses, and their teacher; without `data` to be looked at only.

    Raises:
        ValueError: the parts do not fit together.
    """
    students = [_student(stage, index, load, device, spelling) for index in range(len(stage.models))]
    guides = [load(parent) for parent in stage.teachers]
    context = TeacherContext(guides, students, examples, stage.dataset.classes, data)
    guide = teacher(stage, context).to(device)
    recipe, until = stage.recipe, stage.method.until
    scale = 1.0 if recipe.loss_scale is None else recipe.loss_scale
    rate, clip = recipe.learning_rate, recipe.clip_norm
    learners = [Learner(student, objective(stage).to(device), rate, scale, clip, until) for student in students]
    for learner in learners:
        _prepare(learner, guide, zero_batch(stage, device))
    return Class(learners, guide)


def _student(stage: Stage, index: int, load: Load, device: torch.device, spelling: Tensor | None) -> nn.Module:
    """In the memory layout that convolutions like."""
    reseed(stream(*stage.stream_key, "initial", *([index] if index else [])))
    student = network(stage, index, spelling).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for inheritance in stage.inherits:
        _inherit(student, load(inheritance.parent), inheritance)
    return student


def _inherit(student: nn.Module, source: nn.Module, inheritance: Inheritance) -> None:
    """Copies the modules, all or the named ones.

    Raises:
        ValueError: a module is missing on one side, or has another shape.
    """
    for name in inheritance.modules or [""]:
        try:
            mine, theirs = student.get_submodule(name), source.get_submodule(name)
            mine.load_state_dict(theirs.state_dict())
        except (AttributeError, RuntimeError) as error:
            raise ValueError(
                f"'{name or 'the network'}' cannot be taken over: {str(error).splitlines()[-1]}"
            ) from error
        if inheritance.frozen:
            mine.requires_grad_(False)


def _prepare(learner: Learner, guide: Teacher, batch: Batch) -> None:
    """Shows networks and teacher a batch of zeros, for terms whose parameters depend on their shapes."""
    waiting = [term for term in learner.objective.terms.values() if type(term).prepare is not Term.prepare]  # pyright: ignore
    if not waiting:
        return
    learner.network.eval()
    with torch.no_grad():
        output = learner(batch.views[0])
        targets = guide.targets(Step(batch, [learner], [output], 0, Progress(0, 0, 1, 1)))
    for term in waiting:
        term.prepare(output, targets)  # pyright: ignore[reportCallIssue]
        term.to(batch.views[0].device)


def zero_batch(stage: Stage, device: torch.device, size: int = 2, unroll: int = 1) -> Batch:
    """A batch of zeros as the stage's networks see them; of words in so many steps."""
    dataset = stage.dataset
    if dataset.input_shape is not None:
        inputs, targets = torch.zeros(size, *dataset.input_shape), torch.zeros(size, dtype=torch.long)
    else:
        inputs = targets = torch.zeros(unroll, size, dtype=torch.long)
    inputs, targets = inputs.to(device), targets.to(device)
    return Batch((inputs,) * getattr(dataset, "views", 1), targets, torch.arange(size, device=device))


def optimizer(stage: Stage, learner: Learner) -> torch.optim.Optimizer:
    """For all that is not frozen: weight decay would move a parameter without a gradient too."""
    trained = [p for p in [*learner.network.parameters(), *learner.objective.parameters()] if p.requires_grad]
    return build(stage.recipe.optimizer, trained)


def teacher(stage: Stage, context: TeacherContext) -> Teacher:
    """Who teaches: the method's answer."""
    node = stage.method.teacher
    return Teacher() if node is None else build(node, context)


class StageCost(NamedTuple):
    """What one step on imagined data tells about a stage."""

    parameters: int
    training_flops: float
    """Floating-point operations per training example or word: student forward and backward, its teachers forward."""


def check_shapes(stage: Stage) -> StageCost:
    """One forward pass and one loss without data, memory or time: on torch's meta device.

    Raises:
        UserError: the parts do not fit together, for example DKPP and two classes.
    """
    teachers = [parent.stage.model for parent in stage.teachers]
    kinds = plain([stage.models, stage.method, teachers, [str(each.modules) for each in stage.inherits]])
    names = ("classes", "shape", "features", "characters", "word_length", "views", "munge")
    sizes = [getattr(stage.dataset, name, None) for name in names]
    kind = json.dumps([kinds, sizes], sort_keys=True)  # stages of one kind are rehearsed once
    if kind not in _REHEARSED:
        try:
            _REHEARSED[kind] = _imagine(stage)
        except UserError:
            raise
        except Exception as error:
            where = _in_the_users_code(error, stage)
            if not where and not isinstance(error, ValueError):
                raise
            said = " ".join(str(error).split()).rstrip(".")
            said = f"{where}: {type(error).__name__}: {said}" if where else said
            raise UserError(f"{stage.label} ({stage.model.title} on {stage.dataset.title}): {said}.") from error
    return _REHEARSED[kind]


_REHEARSED: dict[str, StageCost] = {}


def _in_the_users_code(error: Exception, stage: Stage) -> str | None:
    """The last line of a module of the user's that an error came through; None: it is not the user's."""
    modules = {target.partition(".")[0] for target in stage.targets} - {"ban", "torch"}
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        if frame.f_globals.get("__name__", "").partition(".")[0] in modules:
            return f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
    return None


def _imagine(stage: Stage) -> StageCost:
    munge(stage)
    device, dataset = torch.device("meta"), stage.dataset
    with device:
        words = (dataset.classes, getattr(dataset, "word_length", 0))
        spelling = torch.zeros(words, dtype=torch.long)

        def load(parent: Parent) -> nn.Module:
            return network(parent.stage, parent.index, spelling)

        learners, guide = assemble(stage, load, device, spelling, examples=2)
        batch, start = zero_batch(stage, device), Progress(0, 0, 1, 1)
        with FlopCounterMode(display=False) as own, torch.no_grad():
            outputs = [learner(batch.views[0]) for learner in learners]
        for learner, output in zip(learners, outputs, strict=True):
            _check_output(learner, output, [*batch.targets.shape, dataset.classes])
        step = Step(batch, learners, outputs, 0, start)
        guide.targets(step)  # what a teacher computes only once does not count
        with FlopCounterMode(display=False) as taught, torch.no_grad():
            targets = guide.targets(step)
        for name, term in learners[0].objective.terms.items():
            _check_loss(name, term(outputs[0], targets, batch))
            learners[0].objective.weights[name](start)
    _check_reported(stage, [str(index) for index in range(len(learners))] + [*guide.published()])
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
        raise ValueError(f"{name} must return a ban.interfaces.Output with logits, not {_kind(output)}")
    if learner.until is None and list(output.logits.shape) != shape:
        raise ValueError(f"{name} returns logits of the shape {list(output.logits.shape)}, not {shape}")


def _check_loss(name: str, value: object) -> None:
    if not isinstance(value, Tensor) or value.ndim:
        raise ValueError(
            f"the term {name} gives {_kind(value)}: it must be a tensor with one number, for example the mean over the "
            "batch"
        )


def _kind(value: object) -> str:
    return f"a tensor of the shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
