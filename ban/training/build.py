"""Builds the objects that a stage's settings describe: data, networks, losses, teacher, training step."""

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ban.data.munge import Munge
from ban.interfaces import Batch, Data, Step, Teacher, TeacherContext, Term
from ban.plan.stage import Inheritance, Parent, Stage
from ban.schedules import Constant
from ban.settings import data_hash
from ban.settings.construct import build
from ban.settings.datasets import LabelledDataset, OwnImages, TextDataset
from ban.settings.schema import Machine
from ban.streams import stream
from ban.training.device import Device
from ban.training.loop import reseed
from ban.training.step import START, Learner, Objective, Student, TrainingStep

Load = Callable[[Parent], nn.Module]
"""Returns a trained network of another stage."""


def network(stage: Stage, index: int = 0, spelling: Tensor | None = None) -> nn.Module:
    """A network of the stage. Its weights are drawn from torch's global generator.

    Args:
        stage: the stage that trains it.
        index: its number in a cohort.
        spelling: characters of each word, `[words, characters]`; only networks that read characters need it.
    """
    model, arguments = stage.models[index], stage.dataset.network_arguments
    if isinstance(model.checkpointing, bool):  # auto is decided before a training, and changes nothing else
        arguments["checkpointing"] = model.checkpointing
    if "characters" in model.constructor:
        arguments["spelling"] = spelling
    return build(model.constructor, **arguments)


def zero_spelling(stage: Stage, device: torch.device) -> Tensor:
    """Spelling in the shape of the stage's text, for networks that never see the text."""
    length = stage.dataset.word_length if isinstance(stage.dataset, TextDataset) else 0
    return torch.zeros(stage.dataset.classes, length, dtype=torch.long, device=device)


def data(stage: Stage, machine: Machine, device: torch.device) -> Data:
    """The stage's data set on the device.

    Raises:
        UserError: the data cannot be read, or are not those that the signature names.
    """
    recipe = stage.recipe
    arguments = {"batch_size": recipe.batch_size, "steps_per_epoch": recipe.steps_per_epoch, "device": device}
    if isinstance(stage.dataset, OwnImages):
        arguments["streamed"] = machine.stream_images
    if recipe.unroll is not None:
        arguments["unroll"] = recipe.unroll
    if synthetic := munge(stage):
        arguments["munge"] = synthetic
    folders = {"data_dir": machine.data_dir, "download": machine.download}
    built = build(stage.dataset.constructor_arguments, **folders, **arguments)
    data_hash.verify(stage.dataset, machine, built)
    return built


def fetch(stages: Iterable[Stage], machine: Machine) -> None:
    """Downloads what the stages' data sets lack; for a function `NAME`, `fetch_NAME` beside it does that, where it is.

    Raises:
        UserError: something cannot be downloaded.
    """
    fetched: list[dict[str, Any]] = []
    for dataset in (stage.dataset for stage in stages if stage.dataset.mirrors):
        module, _, name = dataset.function.rpartition(".")
        node = dataset.constructor_arguments | {"_target_": f"{module}.fetch_{name}"}
        if hasattr(importlib.import_module(module), f"fetch_{name}") and node not in fetched:
            build(node, data_dir=machine.data_dir, download=machine.download)
            fetched.append(node)


def munge(stage: Stage) -> Munge | None:
    """The generator of the stage's synthetic training examples; None: the method uses none.

    Raises:
        UserError: an option is impossible.
    """
    options = stage.dataset.munge if isinstance(stage.dataset, LabelledDataset) else None
    return None if options is None else build({"_target_": "ban.data.munge.Munge", **options})


def objective(stage: Stage) -> Objective:
    """The method's named, weighted terms."""
    terms = {name: build(term.constructor) for name, term in stage.method.terms.items()}
    for term in terms.values():
        term.examples = stage.dataset.training_examples
    return Objective(terms, {name: _weight(term.weight) for name, term in stage.method.terms.items()})


def _weight(value: Any) -> Any:
    return build(value) if isinstance(value, Mapping) else Constant(value)


def teacher(stage: Stage, context: TeacherContext) -> Teacher:
    """The source of the method's targets."""
    node = stage.method.teacher
    return Teacher() if node is None else build(node, context)


def training_step(
    stage: Stage, load: Load, device: Device, spelling: Tensor | None, data: Data | None = None
) -> TrainingStep:
    """The stage's training step, with students that have fresh or inherited weights.

    Args:
        stage: what is trained.
        load: returns the networks that the stage learns from.
        device: where they are trained.
        spelling: characters of each word, `[words, characters]`; only networks that read characters need it.
        data: the training data, for teachers that read it in advance; None: only shapes or times matter.

    Raises:
        UserError: a constructor does not accept its arguments.
        ValueError: the parts do not fit together.
    """
    recipe, target = stage.recipe, device.torch_device
    networks = [_student(stage, index, load, target, spelling) for index in range(len(stage.models))]
    teachers = [load(parent) for parent in stage.teachers]
    context = TeacherContext(teachers, networks, stage.dataset.training_examples, stage.dataset.classes, data)
    source = teacher(stage, context).to(target)
    objectives = [objective(stage).to(target) for _ in networks]  # all are drawn before any term is prepared
    students = [Student(network=each, until=stage.method.until) for each in networks]
    _prepare(objectives, students, source, zero_batch(stage, target))
    for loss in objectives:
        _check_pretrained(loss, stage)
    return TrainingStep(
        learners=[_learner(stage, student, loss) for student, loss in zip(networks, objectives, strict=True)],
        teacher=source,
        schedule=build(recipe.schedule),
        precision=functools.partial(device.precision, recipe.precision),
        beta1=build(recipe.beta1) if recipe.beta1 else None,
        counts_errors=stage.dataset.metric == "error_percent" and not stage.is_pretraining,
        diagnosed_steps=recipe.diagnosed_steps if stage.compares_teacher_with_labels else 0,
    )


def _student(stage: Stage, index: int, load: Load, device: torch.device, spelling: Tensor | None) -> nn.Module:
    """In channels-last memory, which convolutions run fastest in."""
    reseed(stream(*stage.stream_key, "initial", *([index] if index else [])))
    student = network(stage, index, spelling).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for inheritance in stage.inherits:
        _inherit(student, load(inheritance.parent), inheritance)
    return student


def _inherit(student: nn.Module, source: nn.Module, inheritance: Inheritance) -> None:
    """Copies all modules, or the named ones.

    Raises:
        ValueError: a module is missing on one side, or has another shape.
    """
    for name in inheritance.modules or [""]:
        try:
            mine, theirs = student.get_submodule(name), source.get_submodule(name)
            mine.load_state_dict(theirs.state_dict())
        except (AttributeError, RuntimeError) as error:
            raise ValueError(
                f"the weights of '{name or 'the network'}' cannot be copied: {str(error).splitlines()[-1]}"
            ) from error
        if inheritance.frozen:
            mine.requires_grad_(False)


def _learner(stage: Stage, student: nn.Module, loss: Objective) -> Learner:
    recipe = stage.recipe
    # Frozen parameters stay out: weight decay would move a parameter without a gradient, too.
    trained = [parameter for parameter in [*student.parameters(), *loss.parameters()] if parameter.requires_grad]
    return Learner(
        network=student,
        until=stage.method.until,
        objective=loss,
        optimizer=build(recipe.optimizer, trained),
        peak_rate=recipe.learning_rate,
        loss_scale=1.0 if recipe.loss_scale is None else recipe.loss_scale,
        clip_norm=recipe.clip_norm,
    )


def _prepare(losses: Sequence[Objective], students: Sequence[Student], source: Teacher, batch: Batch) -> None:
    """Lets terms whose parameters depend on the networks' shapes make these parameters, from a batch of zeros."""
    if all(type(term).prepare is Term.prepare for loss in losses for term in loss.terms.values()):  # pyright: ignore
        return
    statistics = [(buffer, buffer.clone()) for buffer in source.buffers()]  # which a teacher in training mode updates
    with torch.no_grad():
        for student in students:
            student.network.eval()
        outputs = [student(batch.views[0]) for student in students]
        for turn, loss in enumerate(losses):
            targets = source.targets(Step(batch, students, outputs, turn, START))
            for term in loss.terms.values():
                term.prepare(outputs[turn], targets)  # pyright: ignore[reportCallIssue]
                term.to(batch.views[0].device)
        for buffer, before in statistics:
            buffer.copy_(before)


def _check_pretrained(loss: Objective, stage: Stage) -> None:
    first = next((each.parent.stage.method.terms for each in stage.inherits if each.parent.stage.is_pretraining), {})
    if missing := [name for name, term in loss.terms.items() if term.pretrained and name not in first]:
        raise ValueError(
            f"the term {missing[0]} needs a term of that name in method.pretrain.terms, which trains it first"
        )


def stored_terms(stage: Stage, step: TrainingStep) -> dict[str, Tensor]:
    """The parameters and buffers of a pre-training's terms, which the training after it may go on with."""
    return dict(step.learners[0].objective.state_dict()) if stage.is_pretraining else {}


def inherit_terms(loss: Objective, trained: Mapping[str, Tensor]) -> None:
    """Copies the modules that a pre-training has trained into the terms, from its `stored_terms`.

    Raises:
        ValueError: they do not fit.
    """
    for name, term in loss.terms.items():
        for module in term.pretrained:  # pyright: ignore[reportGeneralTypeIssues]
            prefix = f"terms.{name}.{module}."
            state = {key.removeprefix(prefix): value for key, value in trained.items() if key.startswith(prefix)}
            try:
                term.get_submodule(module).load_state_dict(state)
            except RuntimeError as error:
                raise ValueError(
                    f"the {module} of the term {name} is not the one that method.pretrain trains: "
                    f"{str(error).splitlines()[-1].strip()}"
                ) from error


def zero_batch(stage: Stage, device: torch.device, size: int = 2, unroll: int = 1) -> Batch:
    """A batch of zeros in the shape that the stage's networks see; for text, `unroll` words of `size` rows."""
    dataset = stage.dataset
    if dataset.input_shape is not None:
        inputs, targets = torch.zeros(size, *dataset.input_shape), torch.zeros(size, dtype=torch.long)
    else:
        inputs = targets = torch.zeros(unroll, size, dtype=torch.long)
    inputs, targets = inputs.to(device), targets.to(device)
    return Batch(
        (inputs,) * dataset.views_per_batch, targets, torch.arange(targets.numel(), device=device).view_as(targets)
    )
