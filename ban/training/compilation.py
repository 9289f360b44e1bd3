"""Compiles a training step where that is expected to pay, and goes back to eager steps where it does not.

A learner's forward pass, its teacher's targets and its loss terms become one graph without graph breaks, with one
backward pass. In a cohort, whose networks are updated in turn, each forward pass and each learner's losses are graphs
of their own. Optimizers, `Teacher.after_step`, the counting of errors and evaluations stay eager.
"""

import importlib.util
import logging
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ban.interfaces import Output, Step
from ban.models.densenet import Unit
from ban.settings.schema import Machine
from ban.store.remembered import folder
from ban.training.device import Device
from ban.training.loop import TrainingState
from ban.training.step import Losses, Student, TrainingStep, Weights

RECURRENT = "torch.compile does not trace recurrent layers"
CHECKPOINTED = "torch.compile does not trace model.checkpointing=true"

GAIN = 1.2
"""Eager seconds of a step per compiled one that `auto` expects of networks with convolutions. It leaves others eager:
no gain was measured for them."""
SECONDS, SECONDS_PER_LAYER = 20.0, 1.0
"""The expected time of compiling, and of each layer with weights of all networks in the step."""
WARM_UP, WINDOW = 3, 10
"""Steps that are not timed, because kernels are chosen and memory is allocated, and steps that are."""
QUIET_CALLS = 8
"""The first calls of compiled functions, in which torch compiles."""
MARGIN = 1.0
"""`auto` compiles if the expected saving is this many times the expected time of compiling."""


def obstacle(networks: Iterable[nn.Module]) -> str | None:
    """Why a step with these networks is not compiled; None: it is."""
    for module in (module for network in networks for module in network.modules()):
        if isinstance(module, nn.RNNBase):
            return RECURRENT
        if isinstance(module, Unit) and module.checkpointing:
            return CHECKPOINTED
    return None


def missing_program(device: Device) -> str | None:
    """What compiling for the device needs and this machine lacks."""
    if device.torch_device.type == "cuda" and not importlib.util.find_spec("triton"):
        return "triton"
    return None if shutil.which("c++") else "a C++ compiler"


class Compiled:
    """Compiled versions of a step's functions. They are compiled at their first call.

    If that fails, `warn` gets the reason, once, and the functions are eager from then on. Nothing has been computed
    before that, so no step is taken twice.

    Args:
        step: whose functions are compiled.
        warn: what to do with the reason.
        backend: of `torch.compile`.
        options: of the backend.
    """

    def __init__(
        self, step: TrainingStep, warn: Callable[[str], None], backend: str = "inductor", **options: Any
    ) -> None:
        self.eager, self.warn, self.failed, self.calls = step, warn, False, 0
        self._forward, self._losses = step.forward, step.losses
        try:
            self._forward, self._losses = (
                torch.compile(function, fullgraph=True, dynamic=False, backend=backend, options=options or None)
                for function in (step.forward, step.losses)
            )
        except RuntimeError as error:  # torch does not know this version of Python yet
            self._fail(error)

    def forward(self, student: Student, inputs: Tensor) -> Output:
        """As `TrainingStep.forward`."""
        return self._call(self._forward, self.eager.forward, student, inputs)

    def losses(self, step: Step, weights: Weights) -> Losses:
        """As `TrainingStep.losses`."""
        torch.compiler.cudagraph_mark_step_begin()
        device = step.batch.targets.device
        tensors = {name: torch.full((), float(weight), device=device) for name, weight in weights.items()}
        computed: Losses = self._call(self._losses, self.eager.losses, step, tensors)
        # With CUDA graphs the next step overwrites the outputs of this one. An epoch's sums begin with these tensors.
        return computed._replace(terms={name: term.clone() for name, term in computed.terms.items()})

    def _call(self, compiled: Callable[..., Any], eager: Callable[..., Any], *arguments: Any) -> Any:
        if not self.failed:
            self.calls += 1
            try:  # torch warns about its own code
                with warnings.catch_warnings(action="ignore") if self.calls < QUIET_CALLS else nullcontext():
                    return compiled(*arguments)
            except _errors() as error:
                self._fail(error)
        return eager(*arguments)

    def _fail(self, error: Exception) -> None:
        self.failed = True
        self.warn(f"the training cannot be compiled ({_first_line(error)}) and continues without")


def inductor_options(mode: str, threads: int) -> dict[str, Any]:
    """Options of torch's compiler, for `Compiled`, from `machine.compile_mode`."""
    import torch._functorch.config as autograd_config
    import torch._inductor as inductor
    import torch._inductor.config as inductor_config

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no GPU
    inductor_config.compile_threads = threads
    # Not in torch 2.6. With it, errors of the backward pass come before the forward pass has changed anything.
    if hasattr(autograd_config, "force_non_lazy_backward_lowering"):
        autograd_config.force_non_lazy_backward_lowering = True
    use_cache()
    return {**inductor.list_mode_options(mode), "fallback_random": True}  # random numbers as in eager steps


def use_cache() -> None:
    """Keeps what is compiled in the user's cache folder, unless `TORCHINDUCTOR_CACHE_DIR` names another.

    Torch's own default is a temporary folder.
    """
    cache = folder() / "compiled"
    with suppress(OSError):
        if cache.is_absolute():
            cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))


def _errors() -> tuple[type[Exception], ...]:
    """What torch raises where it cannot compile."""
    from torch._dynamo import exc

    return exc.TorchDynamoException, getattr(exc, "FailOnRecompileLimitHit", exc.TorchDynamoException)


def _first_line(error: Exception) -> str:
    lines = [line.strip().rstrip(".") for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)


class Compilation:
    """The decision about one training: whether and when it is compiled, and whether it stays so.

    `machine.compile=true` compiles the first step, and keeps that. `auto` times eager steps first. Where the rest of
    the training is long enough, it compiles, times compiled and eager steps in turn, and keeps what is faster.
    """

    def __init__(
        self,
        machine: Machine,
        device: Device,
        step: TrainingStep,
        networks: Sequence[nn.Module],
        say: Callable[[str], None],
    ) -> None:
        self.step, self.device, self.say = step, device, say
        self.mode, self.networks = machine.compile_mode, networks
        self.clock = 0.0
        self._course = None
        if machine.compile:
            reason = obstacle(networks) or (f"it needs {needed}" if (needed := missing_program(device)) else None)
            if reason is None and machine.compile is True:
                self._course = self._always()
            elif reason is None and has_convolutions(networks):
                self._course = self._if_it_pays()
            elif machine.compile is True:
                say(f"warning: machine.compile=true has no effect: {reason}")

    def begin(self, state: TrainingState) -> None:
        """Called before the first step of this process."""
        self.state = state
        self._advance(None)

    def after_step(self) -> None:
        """Called after each step."""
        if self._course is not None:
            _wait(self.device)
            self._advance(time.perf_counter() - self.clock)

    def _advance(self, seconds: float | None) -> None:
        if self._course is not None:
            try:
                self._course.send(seconds)  # pyright: ignore[reportArgumentType] -- None starts it
            except StopIteration:
                self._course = None
        self.clock = time.perf_counter()

    # The courses are sent the seconds of each step

    def _always(self) -> "Course":
        compiled = self._compile()
        seconds = (yield) + (yield)  # a state that is carried from the first batch on makes a second graph
        if not compiled.failed:
            self.say(f"compiled in {seconds:.0f} s")

    def _if_it_pays(self) -> "Course":
        timed: list[float] = []
        for _ in range(WARM_UP + WINDOW):
            timed.append((yield))
        eager = statistics.median(timed[WARM_UP:])
        if not pays(self._remaining_steps(), eager, layers(self.networks)):
            return
        compiled = self._compile()
        functions, seconds = self.step.functions, (yield) + (yield) - 2 * eager
        times: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * WINDOW):
            is_compiled = number % 2 == 1  # in turn, so that a change of the machine's load changes both
            self.step.functions = functions if is_compiled else None
            times[is_compiled].append((yield))
        gain = statistics.median(times[False]) / statistics.median(times[True])
        if gain < 1 or compiled.failed:
            self.step.functions = None
        if not compiled.failed:
            self.say(f"compiled in {seconds:.0f} s; {gain:.1f} × as fast" + "; it continues without" * (gain < 1))

    def _compile(self) -> Compiled:
        compiled = Compiled(self.step, self._warn, **inductor_options(self.mode, self.device.threads))
        self.step.functions = compiled.forward, compiled.losses
        return compiled

    def _warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def _remaining_steps(self) -> int:
        progress = self.state.progress
        return progress.epochs * progress.steps_per_epoch - self.state.steps


Course = Generator[None, float, None]


def has_convolutions(networks: Iterable[nn.Module]) -> bool:
    """Whether one of the networks is for images."""
    return any(isinstance(module, nn.Conv2d) for network in networks for module in network.modules())


def layers(networks: Iterable[nn.Module]) -> int:
    """The number of layers with weights."""
    modules = [module for network in networks for module in network.modules()]
    return sum(any(True for _ in module.parameters(recurse=False)) for module in modules)


def pays(steps: int, eager_seconds: float, layers: int) -> bool:
    """Whether compiling is expected to be earned back.

    Args:
        steps: that are left.
        eager_seconds: of one step.
        layers: with weights, in all networks of a step.
    """
    saved = steps * eager_seconds * (1 - 1 / GAIN)
    return saved > MARGIN * (SECONDS + SECONDS_PER_LAYER * layers)


def _wait(device: Device) -> None:
    if device.torch_device.type == "cuda":
        torch.cuda.synchronize(device.torch_device)
