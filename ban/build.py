"""Objects from a stage's plain data: where configuration ends."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ban.errors import UserError
from ban.interfaces import Batch, Data, Output, Progress, Step, Teacher
from ban.machine import Machine
from ban.plan import Stage
from ban.schedules import Constant
from ban.train import Learner, Objective

DESCRIPTION = ("name", "title", "kind")
"""Settings of data sets and models that are about them, and not arguments."""


def build(node: Mapping[str, Any], *arguments: Any, without: Sequence[str] = (), **options: Any) -> Any:
    """An object from its part of the configuration, `without` some keys, and from what only the running program has.

    Raises:
        UserError: the options do not fit.
    """
    kept = {key: value for key, value in node.items() if key not in (*without, "source_sha256")}
    try:
        return instantiate(kept, _partial_=True, _convert_="all")(*arguments, **options)
    except (InstantiationException, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"{node['_target_']}: {' '.join(str(cause).split())}") from error


def network(stage: Stage, spelling: Tensor | None = None) -> nn.Module:
    """The stage's network with freshly drawn weights, from torch's global generator.

    `spelling` is the characters of each word; only networks that read characters need it.
    """
    given: dict[str, Any] = {"classes": stage.dataset["classes"]}
    if stage.dataset["kind"] == "images":
        given["channels"] = stage.dataset["shape"][0]
    if "characters" in stage.model:
        given["spelling"] = spelling
    return build(stage.model, without=DESCRIPTION, **given)


def data(stage: Stage, machine: Machine, device: torch.device) -> Data:
    """The stage's data set on the device."""
    recipe = stage.recipe
    given = {name: recipe[name] for name in ("batch_size", "unroll") if recipe.get(name) is not None}
    given |= {"steps_per_epoch": recipe.get("steps_per_epoch"), "device": device}
    return build(
        stage.dataset,
        without=[*DESCRIPTION, "metric"],
        data_dir=machine.data_dir,
        download=machine.download,
        **given,
    )


def objective(stage: Stage) -> Objective:
    """The method's named, weighted terms."""
    nodes = stage.method["terms"]
    terms = {name: build(node, without=["weight"]) for name, node in nodes.items()}
    return Objective(terms, {name: _weight(node["weight"]) for name, node in nodes.items()})


def _weight(value: Any) -> Any:
    return build(value) if isinstance(value, Mapping) else Constant(value)


def learner(stage: Stage, device: torch.device, spelling: Tensor | None = None) -> Learner:
    """A network in training, on its device, in the memory layout that convolutions like."""
    recipe = stage.recipe
    student = network(stage, spelling).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    loss = objective(stage).to(device)
    parameters = [p for p in [*student.parameters(), *loss.parameters()] if p.requires_grad]
    optimizer = build(recipe["optimizer"], parameters)
    scale = 1.0 if recipe.get("loss_scale") is None else recipe["loss_scale"]
    return Learner(student, loss, optimizer, recipe["optimizer"]["lr"], scale, recipe.get("clip_norm"))


def teacher(stage: Stage, networks: Sequence[nn.Module]) -> Teacher:
    """Who teaches: the method's answer, with the trained networks of the stage's parents."""
    return build(stage.method["teacher"], networks) if networks else Teacher()


class Rehearsal(NamedTuple):
    """What one step on imagined data tells about a stage."""

    parameters: int
    training_flops: float
    """Floating-point operations per training image or word: the student forward and backward, its teachers forward."""


def rehearse(stage: Stage) -> Rehearsal:
    """One forward pass and one loss without data, memory or time: on torch's meta device.

    Raises:
        UserError: the parts do not fit together, for example DKPP and two classes.
    """
    kinds = [stage.model, stage.method, [parent.stage.model for parent in stage.teachers]]
    sizes = [stage.dataset.get(name) for name in ("classes", "shape", "characters", "word_length")]
    kind = json.dumps([kinds, sizes], sort_keys=True)  # stages of one kind are rehearsed once
    if kind not in _REHEARSED:
        try:
            _REHEARSED[kind] = _imagine(stage)
        except ValueError as error:
            raise UserError(f"{stage.label} ({stage.model['title']} on {stage.dataset['title']}): {error}.") from error
    return _REHEARSED[kind]


_REHEARSED: dict[str, Rehearsal] = {}


def _imagine(stage: Stage) -> Rehearsal:
    dataset, size = stage.dataset, 2
    with torch.device("meta"):
        if dataset["kind"] == "images":
            inputs, spelling = torch.empty(size, *dataset["shape"]), None
            targets = torch.zeros(size, dtype=torch.long)
        else:
            inputs = targets = torch.zeros(1, size, dtype=torch.long)
            spelling = torch.zeros(dataset["classes"], dataset["word_length"], dtype=torch.long)
        student, loss = network(stage, spelling).train(), objective(stage)
        guides = [network(parent.stage, spelling) for parent in stage.teachers]
        batch = Batch((inputs,), targets, targets)
        with FlopCounterMode(display=False) as own, torch.no_grad():
            output: Output = student(inputs)
        guide, step = teacher(stage, guides), Step(batch, [], [output], 0, Progress(0, 0, 1, 1))
        guide.lesson(step)  # what a teacher computes only once does not count
        with FlopCounterMode(display=False) as taught, torch.no_grad():
            lesson = guide.lesson(step)
        loss(output, lesson, batch, Progress(0, 0, 1, 1))
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return Rehearsal(parameters, (3 * own.get_total_flops() + taught.get_total_flops()) / size)
