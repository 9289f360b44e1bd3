"""Several trainings of one kind whose small networks take each step together, as stacked tensors.

A small network spends most of a step on starting operations; `torch.func.vmap` starts each of them once for a bundle.
Everything else is each training's own: data, random streams, checkpoints, evaluation and failures.
"""

import copy
import functools
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ban.interfaces import Batch, Progress, Step, Teacher
from ban.plan.stage import Parent, Stage
from ban.settings.construct import build as construct
from ban.settings.schema import Machine
from ban.teachers import Frozen
from ban.training import build
from ban.training.costs import rehearse
from ban.training.device import Device
from ban.training.loop import Due, Steps
from ban.training.step import START, Learner, Measured, TrainingStep

LARGEST_STEP = {"cpu": 2e8, "cuda": 1e10}
"""Floating-point operations of a network's step up to which a bundle is faster, by the type of the device."""
MEMBERS, FEWEST = 16, 4
"""The most trainings of a bundle, because more gain little, and the fewest, because less gain nothing."""
TEACHERS, OPTIMIZERS = (Teacher, Frozen), (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Teachers without state of their own, and optimizers that update each number by itself."""

MakeOptimizer = Callable[[Sequence[Tensor]], torch.optim.Optimizer]


def kind(stage: Stage, machine: Machine, device_type: str | None) -> Hashable:
    """What stages must have in common to be a bundle; None: the stage trains alone.

    `device_type`: where the network has to be small enough; None: it may be of any size.
    """
    recipe = stage.recipe
    alike = not recipe.select and not recipe.diagnosed_steps and recipe.precision == "fp32"  # the rate is one for all
    single = len(stage.models) == 1 and not stage.inherits and not stage.is_pretraining and not stage.dataset.is_text
    if not (alike and single and stage.epochs) or machine.trackers or machine.compile is True:
        return None
    operations = rehearse(stage).training_flops * recipe.batch_size
    return (stage.step_kind, stage.regime) if not device_type or operations <= LARGEST_STEP[device_type] else None


class _Member(nn.Module):
    """A training step from the batch to the losses, as a module that holds all tensors it computes with."""

    def __init__(self, step: TrainingStep) -> None:
        super().__init__()
        (learner,) = step.learners
        self.step, self.learner = step, learner
        self.network, self.objective, self.teacher = learner.network, learner.objective, step.teacher
        self.taught_by = nn.ModuleList(getattr(step.teacher, "networks", ()))

    def forward(self, batch: Batch, progress: Progress) -> tuple[dict[str, Tensor], Measured]:
        """The weighted losses with gradient, and what is recorded of the step."""
        with self.step.precision():
            output = self.learner(batch.views[0])
            targets = self.teacher.targets(Step(batch, [self.learner], [output], 0, progress))
        terms = self.objective(output, targets, batch, progress)
        return terms, self.step.measure(terms, output, targets, batch, progress)

    def tensors(self) -> dict[str, Tensor]:
        """Name → parameter or buffer."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}


class Bundle:
    """The next steps of several trainings as one.

    Their networks' tensors become views of stacked ones, so all that reads a network sees its current values. Until
    `close` is called, the trainings cannot take steps of their own.
    """

    def __init__(self, steps: Sequence[TrainingStep], make_optimizer: MakeOptimizer) -> None:
        self.members, self.step = [_Member(step) for step in steps], steps[0]
        each = [member.tensors() for member in self.members]
        self.stacked: dict[str, Tensor] = {}
        for name, first in each[0].items():
            stacked = torch.stack([tensors[name].detach() for tensors in each])
            for tensors, view in zip(each, stacked.unbind(), strict=True):
                tensors[name].data = view
            self.stacked[name] = stacked.requires_grad_(first.requires_grad)
        names = {id(tensor): name for name, tensor in each[0].items()}
        learner = self.members[0].learner
        trained = [self.stacked[names[id(parameter)]] for parameter in _trained(learner)]
        self.learner = replace(learner, optimizer=make_optimizer(trained), clip_norm=None)
        if learner.clip_norm is not None:
            self.learner.optimizer.register_step_pre_hook(functools.partial(_clip, trained, learner.clip_norm))
        self._gather_moments()
        self.hooks = [hook for index, member in enumerate(self.members) for hook in self._hooks(index, member)]

    def __call__(self, batches: Sequence[Batch], progress: Progress) -> list[list[Measured]]:
        """Updates every network. Returns for each what its own step would."""
        views = tuple(torch.stack(each) for each in zip(*(batch.views for batch in batches), strict=True))
        targets, indices = (
            torch.stack([*each]) for each in zip(*((batch.targets, batch.indices) for batch in batches), strict=True)
        )
        rate, beta1 = self.step.schedule(progress), None if self.step.beta1 is None else self.step.beta1(progress)

        def losses(tensors: dict[str, Tensor], batch: Batch) -> Any:
            return functional_call(self.members[0], tensors, (batch, progress))

        terms, measured = vmap(losses)(self.stacked, Batch(views, targets, indices))
        self.learner.update(torch.stack([*terms.values()]).sum(), rate, beta1)
        parts = [{name: value.unbind() for name, value in part.items()} for part in measured]
        return [
            [Measured(*({name: values[index] for name, values in part.items()} for part in parts))]
            for index in range(len(batches))
        ]

    def close(self) -> None:
        """Gives each training what it needs for steps of its own."""
        for index, member in enumerate(self.members):
            self._scatter_moments(index, member.learner)
        for hook in self.hooks:
            hook.remove()

    def _gather_moments(self) -> None:
        """Fills the optimizer's state from those of the trainings."""
        learners = [member.learner for member in self.members]
        states = zip(*([each.optimizer.state[tensor] for tensor in _trained(each)] for each in learners), strict=True)
        for stacked, of_members in zip(_trained(self.learner), states, strict=True):
            for name, value in of_members[0].items():
                moment = isinstance(value, Tensor) and name != "step"
                values = torch.stack([state[name] for state in of_members]) if moment else copy.deepcopy(value)
                self.learner.optimizer.state[stacked][name] = values

    def _scatter_moments(self, index: int, learner: Learner) -> None:
        """Copies a training's part of the optimizer's state to it."""
        for stacked, parameter in zip(_trained(self.learner), _trained(learner), strict=True):
            learner.optimizer.state[parameter] = {
                name: (value if name == "step" else value[index]).clone() if isinstance(value, Tensor) else value
                for name, value in self.learner.optimizer.state[stacked].items()
            }

    def _hooks(self, index: int, member: _Member) -> Iterator[Any]:
        """What is saved of a training is current, and without the tensors that its views are parts of."""
        yield member.learner.optimizer.register_state_dict_pre_hook(
            lambda optimizer: self._scatter_moments(index, member.learner)
        )
        for module in member.children():
            yield module.register_state_dict_post_hook(_copy_tensors)


def _trained(learner: Learner) -> list[Tensor]:
    return [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]


def _clip(trained: Sequence[Tensor], largest: float, *_: Any) -> None:
    """Does to each network's gradient what `nn.utils.clip_grad_norm_` does."""
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (largest / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


def _copy_tensors(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor):
            state[name] = value.clone()


def optimizer_of(stage: Stage) -> MakeOptimizer:
    """The constructor of the stage's optimizer."""
    return functools.partial(construct, stage.recipe.optimizer)


@torch.enable_grad()
def carries(stage: Stage, device: Device) -> bool:
    """Whether bundled steps of this kind are those of single trainings: two steps of fresh networks are compared."""
    target = device.prepare()

    def load(parent: Parent) -> nn.Module:
        return build.network(parent.stage, parent.index).to(target)

    try:
        steps = [build.training_step(stage, load, device, None) for _ in range(2)]
        for step in steps:
            if type(step.teacher) not in TEACHERS or type(step.learners[0].optimizer) not in OPTIMIZERS:
                return False
            step.learners[0].network.train()
        twins = copy.deepcopy(steps)
        bundle, together, single = Bundle(steps, optimizer_of(stage)), [], []
        for _ in range(2):
            batches = [_random_batch(stage, target) for _ in steps]
            together = bundle(batches, START)
            single = [twin(batch, START) for twin, batch in zip(twins, batches, strict=True)]
    except Exception:  # vmap carries neither random numbers nor every operation
        return False
    return all(map(_close, map(_values, steps, together), map(_values, twins, single)))


def _random_batch(stage: Stage, device: torch.device) -> Batch:
    batch = build.zero_batch(stage, device, stage.recipe.batch_size)
    targets = torch.randint_like(batch.targets, stage.dataset.classes)
    return batch._replace(views=tuple(torch.randn_like(view) for view in batch.views), targets=targets)


def _values(step: TrainingStep, measured: Sequence[Measured]) -> dict[str, Tensor]:
    """The network's tensors and the last step's losses."""
    return step.learners[0].network.state_dict() | measured[0].terms


def _close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return all(torch.allclose(found[name], value, rtol=1e-3, atol=1e-4) for name, value in expected.items())


def take_together(trainings: Mapping[str, Steps[object]], make_optimizer: MakeOptimizer) -> None:
    """Runs trainings to their ends. Those that are furthest behind take their next step together.

    A training must handle its own errors. An error of the common step ends all of them.
    """
    due: dict[str, Due] = {}
    bundle, members = None, list[str]()

    def go_on(name: str, measured: list[Measured] | None = None) -> None:
        try:
            due[name] = trainings[name].send(measured)  # pyright: ignore[reportArgumentType]
            due[name].training.add_elapsed()
        except StopIteration:
            due.pop(name, None)

    for name in trainings:
        go_on(name)
    while due:
        fewest = min(each.training.state.steps for each in due.values())
        chosen = [name for name, each in due.items() if each.training.state.steps == fewest]
        steps = [due[name].training.step for name in chosen]
        if chosen != members:
            if bundle:
                bundle.close()
            bundle, members = Bundle(steps, make_optimizer) if len(chosen) > 1 else None, chosen
        started = time.monotonic()
        batches, progress = [due[name].batch for name in chosen], due[chosen[0]].progress
        measured = bundle(batches, progress) if bundle else [steps[0](batches[0], progress)]
        share = (time.monotonic() - started) / len(chosen)
        for name, values in zip(chosen, measured, strict=True):
            due[name].training.clock = time.monotonic() - share
            go_on(name, values)
