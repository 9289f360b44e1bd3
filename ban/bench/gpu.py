"""`ban bench gpu`: checks and measures a machine with a GPU in one go, and writes a JSON file and a Markdown file.

Each part is independent: one that fails is recorded as failed, with its error, and the next one begins. After `LIMIT`
seconds no further part begins. Without a GPU the same code runs at tiny sizes, which checks the code, not a machine.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ban.bench.measure import Product, facts, measure
from ban.bench.synthetic import without_download
from ban.errors import Interrupted, UserError
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.settings.files import CONF
from ban.settings.schema import Machine, Settings
from ban.store.formats import weights_file
from ban.store.store import Store
from ban.training import build
from ban.training.costs import rehearse
from ban.training.device import Device
from ban.training.memory import MIB, StepMemory
from ban.training.run import Host, run
from ban.training.signals import Signals

LIMIT = 480.0
"""Seconds after which no further part begins."""
CIFAR = ("dataset=cifar100", "recipe=wrn")
DIGITS = ("dataset=digits", "model=small_conv", "recipe=digits")
KINDS = {
    "images": DIGITS,
    "language": ("dataset=text", "model=lstm_small", "model.units=32", "recipe=budget_language"),
    "rows": ("dataset=digits_features", "dataset.train_size=100", "model=mlp_16"),
}
LAYERED = {"images": ("model=wrn_10_1",)}
"""Kind of data → a network with the layers that methods compare."""
NEEDS = {"fsp": ("recipe.optimizer.lr=0.01",), "munge": ("method.data.munge.multiplier=1",)}
"""Method → without what it diverges, or its epochs are long."""
DENSENETS = ("densenet_112_33", "densenet_90_60", "densenet_80_80", "densenet_80_120")

Part = dict[str, Any]
"""What a part found: `rows` is its table, everything else is said in a line."""


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    methods: Sequence[str] | None = None
    """None: all."""
    kinds: Sequence[str] = ("images", "language")
    steps: int = 3
    exact: Sequence[str] = ("images", "language", "rows")
    """Kinds of data of the trainings that are repeated and interrupted."""
    epochs: int = 20
    """Of these trainings."""
    bench: Sequence[Sequence[str]] = (
        ("model=wrn_28_2", *CIFAR, "method=labels"),
        ("model=wrn_28_10", *CIFAR, "method=labels"),
        ("model=wrn_28_10", *CIFAR, "method=labels", "recipe.precision=bf16"),
        ("model=densenet_90_60", *CIFAR, "method=labels"),
        ("model=wrn_28_2", *CIFAR, "method=kd"),
        ("model=lstm_small", "dataset=text", "recipe=budget_language", "method=labels"),
    )
    rounds: int = 3
    seconds: float = 1.0
    densenets: Sequence[Sequence[str]] = tuple((f"model={name}", *CIFAR) for name in DENSENETS)
    compiled: Sequence[str] = ("false", "true")
    """Values of machine.compile."""
    compiles: Sequence[str] = ("model=wrn_28_2", *CIFAR)
    stages_per_device: Sequence[int] = (1, 2, 4, 8)
    stages: int = 8
    """Trained at each of these."""
    stage_epochs: int = 100
    lineage: Sequence[str] = ("model=wrn_28_2", *CIFAR, "method=ban", "generations=2", "recipe.epochs=4")
    tests: bool = True


SMALL = (*DIGITS, "method=labels", "recipe.batch_size=8")
TINY = Sizes(
    methods=("kd",),
    kinds=("images",),
    steps=1,
    exact=("images",),
    epochs=2,
    bench=(SMALL,),
    rounds=1,
    seconds=0.0,
    densenets=(("model=densenet_40_12", "model.units=2", *CIFAR, "recipe.batch_size=2"),),
    compiled=("false",),
    compiles=SMALL,
    stages_per_device=(1,),
    stages=1,
    stage_epochs=1,
    lineage=(*DIGITS, "method=ban", "recipe.epochs=20"),
    tests=False,
)


def words_of(method: str, kind: str) -> list[str]:
    """The settings with which a method is tried."""
    return [*KINDS[kind], *LAYERED.get(kind, ()), f"method={method}", *NEEDS.get(method, ())]


class Check:
    """One run of all parts on a machine."""

    def __init__(self, machine: Machine, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.machine, self.sizes, self.say = machine, sizes, say
        self.device = Device.of(machine)

    def run(self) -> dict[str, Any]:
        """What was found, part by part."""
        started = time.monotonic()
        parts: dict[str, Callable[[], Part]] = {
            "methods": self.methods,
            "exactness": self.exactness,
            "tests": self.tests,
            "speed": self.speed,
            "memory": self.memory,
            "compilation": self.compilation,
            "stages per device": self.stages_per_device,
            "lineage": self.lineage,
        }
        found: dict[str, Any] = {"machine": facts(self.machine), "tiny": self.sizes is TINY, "parts": {}}
        for name, part in parts.items():
            self.say(name)
            began = time.monotonic()
            found["parts"][name] = _guarded(part) if began - started < LIMIT else {"left_out": "there was no time left"}
            found["parts"][name]["seconds"] = round(time.monotonic() - began, 1)
        return found

    def methods(self) -> Part:
        """Every method takes a few steps with its teacher, and what it stores can be read and is finite."""
        rows = [self._method(name, kind) for name in self.sizes.methods or all_methods() for kind in self.sizes.kinds]
        failed = [row for row in rows if row["outcome"] not in ("trained", "refused")]
        return {"failed": len(failed), "rows": rows}

    def _method(self, method: str, kind: str) -> dict[str, str]:
        few = ("recipe.epochs=1", f"recipe.steps_per_epoch={self.sizes.steps}")
        row = {"method": method, "kind": kind, "outcome": "trained", "why": ""}
        try:
            settings = compose_settings([*words_of(method, kind), *few])
            for stage in lineage(without_download(settings)):
                rehearse(stage, self.device.torch_device.type)
        except UserError as error:  # a method of images and a text
            return row | {"outcome": "refused", "why": str(error)}
        try:
            with tempfile.TemporaryDirectory() as folder:
                self._train(settings, Path(folder))
        except Exception as error:
            return row | {"outcome": "failed", "why": _sentence(error)}
        return row

    def exactness(self) -> Part:
        """Whether a repeated training, and one that was interrupted and resumed, end with the same bits."""
        rows = list[dict[str, Any]]()
        for kind in self.sizes.exact:
            settings = compose_settings([*KINDS[kind], "method=ban_l", f"recipe.epochs={self.sizes.epochs}"])
            weights = list[list[bytes]]()
            for signals in (None, None, _AfterChecks):
                with tempfile.TemporaryDirectory() as folder:
                    weights.append(self._train(settings, Path(folder), signals))
            first, again, resumed = weights
            rows.append({"kind": kind, "repeated: same bits": again == first, "resumed: same bits": resumed == first})
        return {"rows": rows}

    def _train(self, settings: Settings, folder: Path, interrupted: "type[_AfterChecks] | None" = None) -> list[bytes]:
        """The stored weights of a lineage's stages."""
        store, found = Store(folder), list[bytes]()
        machine = replace(self.machine, outputs=folder, compile=False)
        for stage in lineage(without_download(settings)):
            host = Host(machine, self.device, store)
            if interrupted:
                try:
                    run(stage, host, _quiet, interrupted(stage.epochs))
                except Interrupted:
                    assert store.unfinished()
            run(stage, host, _quiet, Signals())
            found.append(store.file(stage.signature, weights_file("0")).read_bytes())
        return found

    def tests(self) -> Part:
        """The tests that need a GPU, where this is a checkout and pytest is installed."""
        root = Path(__file__).parents[2]
        if not self.sizes.tests or not (root / "tests").is_dir() or not importlib.util.find_spec("pytest"):
            return {"left_out": "needs a GPU, a checkout and pytest"}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=180)
        return {"status": done.returncode, "said": done.stdout.strip().splitlines()[-1:], "tail": done.stdout[-2000:]}

    def speed(self) -> Part:
        """`ban bench` for some settings."""
        sizes = self.sizes
        found = [measure(self._stage(words), self.machine, sizes.rounds, sizes.seconds) for words in sizes.bench]
        rows = [
            {
                "setting": f"{each.setting}, {each.precision}",
                "ban": _short(each.ban.median),
                "script": _short(each.script and each.script.median),
                "in memory": _short(each.in_memory and each.in_memory.median),
                "evaluation": _short(each.evaluation.median),
                "data": _short(each.data.median),
                "TFLOP/s": f"{each.flops_per_second.median / 1e12:.3g}",
                "of a matrix product": f"{each.share_of_matmul.median:.1%}",
            }
            for each in found
        ]
        return {"rows": rows, "measured": [each.as_json() for each in found]}

    def memory(self) -> Part:
        """DenseNets whose activations are stored or recomputed: memory against speed."""
        rows = [self._memory_of(words, value) for words in self.sizes.densenets for value in ("false", "true")]
        return {"rows": rows}

    def _memory_of(self, words: Sequence[str], checkpointing: str) -> dict[str, Any]:
        stage = self._stage([*words, "method=labels", f"model.checkpointing={checkpointing}"])
        row: dict[str, Any] = {"network": stage.model.title, "checkpointing": checkpointing}
        row["expected MiB"] = _short(StepMemory(stage).peak / MIB)
        try:
            rate = self._rate(self.machine, stage)
        except torch.OutOfMemoryError:
            return row | {"peak MiB": "", "images/s": "does not fit"}
        return row | {"peak MiB": str(self.device.peak_memory_mib()), "images/s": _short(rate)}

    def compilation(self) -> Part:
        """Images per second with values of machine.compile, the time to compile not counted."""
        stage = self._stage([*self.sizes.compiles, "method=labels"])
        rows = list[dict[str, Any]]()
        for value in self.sizes.compiled:
            settings = compose_settings([f"machine.compile={value}"])
            machine, began = replace(self.machine, compile=settings.machine.compile), time.monotonic()
            rate = self._rate(machine, stage)
            rows.append({"machine.compile": value, "images/s": _short(rate), "s": f"{time.monotonic() - began:.0f}"})
        return {"rows": rows}

    def _rate(self, machine: Machine, stage: Any) -> float:
        """Examples per second of the training loop, after two steps."""
        target = self.device.prepare()
        product = Product(stage, machine, self.device, build.data(stage, machine, target))
        for _ in range(2):
            product.train(0)
        examples, seconds = product.train(3 * self.sizes.seconds)
        return examples / seconds

    def stages_per_device(self) -> Part:
        """Small trainings per minute when several share the device, the start of their processes included."""
        rows, seeds = list[dict[str, Any]](), ",".join(map(str, range(self.sizes.stages)))
        for number in self.sizes.stages_per_device:
            with tempfile.TemporaryDirectory() as folder:
                words = [*DIGITS, "method=labels", f"recipe.epochs={self.sizes.stage_epochs}", f"seed={seeds}"]
                words += [f"machine.device={self.device.torch_device.type}", f"machine.outputs={folder}"]
                command = [sys.executable, "-m", "ban", "-m", *words, f"hydra.launcher.stages_per_device={number}"]
                began = time.monotonic()
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
                passed = time.monotonic() - began
            row = {"stages_per_device": number, "stages": self.sizes.stages, "s": f"{passed:.1f}"}
            if done.returncode:
                rows.append(row | {"stages per minute": f"failed: {done.stderr.strip()[-300:]}"})
            else:
                rows.append(row | {"stages per minute": _short(60 * self.sizes.stages / passed)})
        return {"rows": rows}

    def lineage(self) -> Part:
        """A lineage from its data to its results."""
        settings = without_download(compose_settings([*self.sizes.lineage]))
        rows = list[dict[str, Any]]()
        with tempfile.TemporaryDirectory() as folder:
            host = Host(replace(self.machine, outputs=Path(folder)), self.device, Store(Path(folder)))
            for stage in lineage(settings):
                result: Any = run(stage, host, _quiet, Signals())
                rows.append(
                    {
                        "stage": f"{result['label']}, {result['model_title']}",
                        "s": _short(result["seconds"]),
                        "images/s": _short(result["images_per_second"]),
                        "peak MiB": str(result["peak_memory_mib"]),
                        "test error %": f"{result['test_error_percent']:.2f}",
                    }
                )
        return {"rows": rows}

    def _stage(self, words: Sequence[str]) -> Any:
        return lineage(without_download(compose_settings(words)))[-1]


class _AfterChecks(Signals):
    """A signal that arrives after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def check(self) -> None:
        """See `Signals`."""
        self.left -= 1
        if self.left < 0:
            self.number = 15
        super().check()


def _quiet(event: object) -> None:
    """Nobody reads what is reported."""


def _guarded(part: Callable[[], Part]) -> Part:
    try:
        return part()
    except Exception as error:  # the other parts are worth having
        return {"failed_with": _sentence(error)}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def all_methods() -> list[str]:
    """The names of all methods."""
    return sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def is_failed(part: Part) -> bool:
    """Whether something in a part went wrong; what is not exact is no failure."""
    return bool(part.get("failed_with") or part.get("failed") or part.get("status"))


# Files


def write(found: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes gpu-check.json and gpu-check.md."""
    files = folder / "gpu-check.json", folder / "gpu-check.md"
    files[0].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    files[1].write_text(markdown(found), encoding="utf-8")
    return files


def markdown(found: Mapping[str, Any]) -> str:
    """The page."""
    machine = found["machine"]
    name = machine["device_name"] if machine["device"] != "cpu" else machine["cpu"]
    lines = [f"# {name}, torch {machine['torch']}, {machine['date']}", ""]
    if found["tiny"]:
        lines += ["Tiny sizes, without a GPU: this checks the program, and says nothing about speed.", ""]
    for title, part in found["parts"].items():
        lines += [f"## {title.capitalize()} ({part['seconds']} s)", ""]
        plain = {key: value for key, value in part.items() if key not in ("rows", "measured", "seconds", "tail")}
        lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in plain.items()] + [""] * bool(plain)
        if rows := part.get("rows"):
            lines += [_line(rows[0]), _line(["---"] * len(rows[0])), *(_line(row.values()) for row in rows), ""]
    return "\n".join(lines)


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"
