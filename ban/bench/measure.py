"""Measures a stage: in alternating rounds its training by `ban` and by the references, and the parts of a step.

Everything is measured in every round, so that a load on the machine that comes and goes meets all of it alike. Medians
over the rounds are reported, with the lowest and the highest round.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from types import SimpleNamespace
from typing import Any, Protocol, cast

import torch
from torch import nn

from ban.bench import references
from ban.bench.references import InMemory, Reference, Script
from ban.errors import UserError
from ban.interfaces import Batch, Data, Progress
from ban.plan.stage import Parent, Stage
from ban.settings.schema import Machine
from ban.training import build, evaluation
from ban.training.compilation import Compilation
from ban.training.costs import rehearse
from ban.training.device import Device
from ban.training.loop import Training, TrainingState, alone, reseed
from ban.training.memory import MIB, Allocations, StepMemory
from ban.training.place import cpu_name
from ban.training.step import START, TrainingStep
from ban.training.timing import Timed, timed, wait

MATRIX = 2048
"""Rows and columns of the matrices whose product is timed."""
COPIED = 2**26
"""Bytes of a tensor whose copy is timed: more than a cache holds."""
PART = 4
"""The parts of a step are measured for the time of a round divided by this."""


class Trains(Protocol):
    """What is compared."""

    def train(self, seconds: float) -> Timed:
        """Trains for about that time. Returns the number of examples, and the time that they took."""
        ...


@dataclass(frozen=True)
class Rate:
    """A rate per second over the rounds."""

    median: float
    low: float
    high: float
    rounds: list[float]

    @classmethod
    def of(cls, rounds: Sequence[float]) -> "Rate":
        """The rate of rounds."""
        return cls(statistics.median(rounds), min(rounds), max(rounds), [*rounds])


@dataclass(frozen=True)
class Measured:
    """What was measured of one setting. Rates are in examples per second."""

    setting: str
    examples: str
    """What an example is: images, rows or words."""
    parameters: int
    batch_size: int
    """Examples of a step."""
    precision: str
    ban: Rate
    """The training loop, with its data."""
    script: Rate | None
    in_memory: Rate | None
    times_script: Rate | None
    """`ban` divided by `script` in each round."""
    times_in_memory: Rate | None
    no_reference: str | None
    """Why there are no references."""
    step: Rate
    """A training step on one batch again and again."""
    evaluation: Rate
    data: Rate
    """The batches of an epoch without a network."""
    flops_per_example: float
    """Student forward and backward, its teachers forward; a multiplication with an addition counts as 2."""
    bytes_per_example: float
    """That the operations of a step read and write."""
    flops_per_second: Rate
    """Of `step`."""
    matmul_flops_per_second: Rate
    """Of the product of two square matrices in the same precision, in the same rounds."""
    copy_bytes_per_second: Rate
    """Read and written by the copy of a large tensor, in the same rounds."""
    share_of_matmul: Rate
    """The first of these rates divided by the second, in each round."""
    memory_mib: dict[str, float]
    """The peak of the tensors of a training step, its network, teachers and optimizer: `ban`, `script`, `in_memory`."""

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class _RoundOver(Exception):
    """The time of a round is over."""


class Product:
    """The training loop of this program, which can be interrupted after any step and continued."""

    def __init__(self, stage: Stage, machine: Machine, device: Device, data: Data) -> None:
        self.device = device.torch_device
        step = build.training_step(stage, _fresh(data, self.device), device, data.spelling, data)
        self.training = Training(
            key=stage.stream_key,
            step=step,
            data=data,
            state=TrainingState(Progress(0, 0, data.steps_per_epoch, sys.maxsize)),
            evaluate=lambda _: {},
            on_step=self._after_step,
            on_epoch=lambda _: None,
        )
        if machine.compile is True:
            networks = [learner.network for learner in step.learners]
            Compilation(machine, device, step, networks, warnings.warn).begin(self.training.state)
        self.deadline = 0.0

    def train(self, seconds: float) -> Timed:
        """See `Trains`."""
        state = self.training.state
        wait(self.device)
        started, before = time.perf_counter(), state.steps
        self.deadline = started + seconds
        try:
            alone(self.training.fit())
        except _RoundOver:
            wait(self.device)
        passed = time.perf_counter() - started
        return Timed((state.steps - before) * self.training.data.examples_per_step, passed)

    def _after_step(self, state: TrainingState) -> None:
        if time.perf_counter() >= self.deadline:
            raise _RoundOver


def _fresh(data: Data, device: torch.device) -> Callable[[Parent], nn.Module]:
    """Untrained teachers."""

    def load(parent: Parent) -> nn.Module:
        reseed(0)
        network = build.network(parent.stage, parent.index, data.spelling)
        return network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    return load


def measure(stage: Stage, machine: Machine, rounds: int, seconds: float) -> Measured:
    """Measures a stage on the machine's device. A round takes about five times `seconds`, or as long as its steps.

    Raises:
        UserError: the stage cannot be trained here.
    """
    device = Device.of(machine)
    target = device.prepare()
    device.check_precision(stage.recipe.precision, stage.dataset.is_text)
    cost, memory = rehearse(stage, target.type), StepMemory(stage)
    data = build.data(stage, machine, target)
    seen, racers = dict[str, float](), dict[str, Trains]()

    def enter(name: str, make: Callable[[], Trains]) -> None:
        with Allocations() as allocations:  # also warms up: kernels are chosen, memory is allocated
            racers[name] = make()
            racers[name].train(0)
            racers[name].train(0)
        seen[name] = allocations.peak / MIB

    if machine.compile is True:  # compiled code cannot be watched
        racers["ban"], seen["ban"] = Product(stage, machine, device, data), memory.peak / MIB
        racers["ban"].train(0)
    else:
        enter("ban", lambda: Product(stage, machine, device, data))
    reason = references.refusal(stage)
    if reason is None:
        batches = {Script: references.scripts_batches, InMemory: references.memorys_batches}
        for name, kind in {"script": Script, "in_memory": InMemory}.items():
            source = batches[kind](stage, data, target)
            next(source)
            enter(name, lambda kind=kind, source=source: _reference(kind, stage, data, source, target))
    parts = _parts(stage, cast("Product", racers["ban"]), data, device)
    found: dict[str, list[float]] = {name: [] for name in (*racers, *parts)}
    for _ in range(rounds):
        for name, racer in racers.items():
            examples, passed = racer.train(seconds)
            found[name].append(examples / passed)
        for name, (act, amount) in parts.items():
            count, passed = timed(act, target, seconds=seconds / PART)
            found[name].append(count * amount / passed)
    return _measured(stage, found, reason, cost.parameters, cost.training_flops, memory, seen)


def _measured(
    stage: Stage,
    found: dict[str, list[float]],
    reason: str | None,
    parameters: int,
    flops: float,
    memory: StepMemory,
    seen: dict[str, float],
) -> Measured:
    def ratio(one: Sequence[float], other: Sequence[float]) -> Rate:
        return Rate.of([a / b for a, b in zip(one, other, strict=True)])

    achieved = [flops * rate for rate in found["step"]]
    compared = {name: Rate.of(found[name]) for name in ("script", "in_memory") if name in found}
    times = {name: ratio(found["ban"], found[name]) for name in compared}
    return Measured(
        setting=describe(stage),
        examples=stage.dataset.examples,
        parameters=parameters,
        batch_size=stage.recipe.examples_per_step,
        precision=stage.recipe.precision,
        ban=Rate.of(found["ban"]),
        script=compared.get("script"),
        in_memory=compared.get("in_memory"),
        times_script=times.get("script"),
        times_in_memory=times.get("in_memory"),
        no_reference=reason,
        step=Rate.of(found["step"]),
        evaluation=Rate.of(found["evaluation"]),
        data=Rate.of(found["data"]),
        flops_per_example=flops,
        bytes_per_example=memory.moved / stage.recipe.examples_per_step,
        flops_per_second=Rate.of(achieved),
        matmul_flops_per_second=Rate.of(found["matmul"]),
        copy_bytes_per_second=Rate.of(found["copy"]),
        share_of_matmul=ratio(achieved, found["matmul"]),
        memory_mib=seen,
    )


def describe(stage: Stage) -> str:
    """A setting in a few words."""
    taught = f", {stage.method.title}" if stage.teachers else ""
    shape = stage.dataset.input_shape
    of = f"{'×'.join(map(str, shape[1:]))}" if shape and len(shape) > 1 else stage.dataset.title
    return f"{stage.model.title}{taught}, {of}"


def _reference(kind: type[Reference], stage: Stage, data: Data, source: Any, device: torch.device) -> Reference:
    reseed(0)
    network = build.network(stage, 0, data.spelling).to(device)
    teachers = [build.network(parent.stage, parent.index, data.spelling).to(device).eval() for parent in stage.teachers]
    return kind(stage, network, teachers[0] if teachers else None, source)


Part = tuple[Callable[[], object], float]
"""What is run, and how much of its unit one run is."""


def _parts(stage: Stage, product: Product, data: Data, device: Device) -> dict[str, Part]:
    """The parts of a training, and the two rates of the device that bound them."""
    target, key = device.torch_device, stage.stream_key
    step: TrainingStep = product.training.step
    batches = (batch for epoch in cycle([0]) for batch in data.epoch(key, epoch))
    batch: Batch = next(batches)
    tested = _first(next(iter(data.evaluation("test"))), stage)
    only: Any = SimpleNamespace(evaluation=lambda _: iter([tested]), recorded=data.recorded)
    network = next(iter(step.networks().values()))

    def train() -> None:
        step(batch, START)

    def evaluate() -> None:
        evaluation.predict(network, only, "test", lambda: None)

    kind = torch.float32 if stage.recipe.precision == "fp32" else torch.bfloat16
    left, right = (torch.randn(MATRIX, MATRIX, device=target, dtype=kind) for _ in range(2))
    source = torch.zeros(COPIED // 4, device=target)
    copy = torch.empty_like(source)
    parts: dict[str, Part] = {
        "step": (train, float(batch.targets.numel())),
        "evaluation": (evaluate, float(tested.targets.numel())),
        "data": (lambda: next(batches), float(batch.targets.numel())),
        "matmul": (lambda: torch.mm(left, right), 2.0 * MATRIX**3),
        "copy": (lambda: copy.copy_(source), 2.0 * COPIED),
    }
    for act, _ in parts.values():
        act()
    for learner in step.learners:
        learner.network.train()
    return parts


def _first(batch: Batch, stage: Stage) -> Batch:
    """As many examples as a training step has, so that slow networks do not take long; of a text, the window."""
    size = len(batch.targets) if stage.dataset.is_text else stage.recipe.batch_size
    return Batch((batch.views[0][:size],), batch.targets[:size], batch.indices[:size])


def facts(machine: Machine) -> dict[str, Any]:
    """What the numbers depend on."""
    device = Device.of(machine)
    return {
        "device": device.name,
        "device_name": device.hardware,
        "cpu": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": device.threads,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


# The start of a process

FIRST_STEP = """
import os, sys, time
from ban.training.step import TrainingStep
step = TrainingStep.__call__
def first(*arguments):
    step(*arguments)
    print("first step", time.time(), flush=True)
    os._exit(0)
TrainingStep.__call__ = first
from ban.cli import main
main()
"""


def start_up(words: Sequence[str], rounds: int) -> Rate:
    """Seconds from the start of a process that trains until the end of its first step.

    Raises:
        UserError: it does not come to its first step.
    """
    found = list[float]()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", FIRST_STEP, *words, f"machine.outputs={folder}"]
            started = time.time()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = [line for line in done.stdout.splitlines() if line.startswith("first step ")]
        if not said:
            raise UserError(f"a process that trains ended before its first step: {done.stderr.strip()[-300:]}")
        found.append(float(said[-1].rpartition(" ")[2]) - started)
    return Rate.of(found)
