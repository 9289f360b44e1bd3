"""Settings, commands and files that several test modules use."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file
from torch import nn

from ban.data.images import Images
from ban.events import Event
from ban.interfaces import TeacherContext
from ban.plan.identity import description_of, identity_of
from ban.plan.lineage import lineage
from ban.plan.stage import Stage
from ban.settings.compose import compose_settings
from ban.settings.schema import Settings
from ban.settings.types import merged
from ban.store.store import Store
from ban.store.work import Work
from ban.teachers import Frozen
from ban.training import build
from ban.training.device import Device
from ban.training.run import Host, run
from ban.training.signals import Signals

DIGITS = ("dataset=digits", "model=small_conv", "recipe=digits", "machine.threads=1", "machine.device=cpu")
"""A training of about a second."""
TEXT = Path(__file__).parent / "text.txt"
"""4,000 words of a made-up language: 60 words, each followed by one of three most of the time."""
LANGUAGE = (
    *("dataset=text", f"dataset.path={TEXT}", "model=lstm_small", "model.units=32", "recipe=budget_language"),
    *("recipe.batch_size=5", "machine.threads=1", "machine.device=cpu"),
)
"""The same for words."""
ROWS = (
    *("dataset=digits_features", "dataset.train_size=100", "model=mlp_16"),
    *("machine.threads=1", "machine.device=cpu"),
)
"""The same for rows of features."""
KINDS = {"images": DIGITS, "language": LANGUAGE, "tabular": ROWS}

Train = Callable[..., list[dict[str, Any]]]
Say = Callable[..., str]


def plan(*overrides: str, kind: str = "images") -> list[Stage]:
    return lineage(compose_settings([*KINDS[kind], *overrides]))


def host(settings: Settings) -> Host:
    """This process, with the settings' machine and store."""
    return Host(settings.machine, Device.of(settings.machine), Store(settings.machine.outputs))


def digits_of(*overrides: str) -> Images:
    """The data of a plan's last stage."""
    settings = compose_settings([*DIGITS, *overrides])
    return build.data(lineage(settings)[-1], settings.machine, torch.device("cpu"))  # pyright: ignore


def frozen(*networks: nn.Module, **options: Any) -> Frozen:
    """Trained networks as a teacher."""
    return Frozen(TeacherContext(networks, [], 0, 0), **options)


def made(count: int, channels: int, size: int, a: float, b: float) -> torch.Tensor:
    """A made-up hidden layer in fp64, by a formula that the golden numbers share."""
    number = torch.arange(count * channels * size**2, dtype=torch.float64)
    return torch.sin(a * number + b * number.sqrt()).view(count, channels, size, size)


def quiet(event: Event) -> None:
    """A report that nobody reads."""


def with_bases(path: Path) -> dict[str, Any]:
    """A file of settings, with those of the files that it extends."""
    node = yaml.safe_load(path.read_text())
    for base in node.get("defaults", ()):
        if isinstance(base, str) and base != "_self_":
            node = merged(with_bases(path.with_stem(base)), node)
    return node


def cifar100(*overrides: str) -> list[Stage]:
    """A lineage of the paper's size, to plan with."""
    return lineage(compose_settings(["dataset=cifar100", *overrides]))


MEASURED = {
    **{"parameters": 7, "seconds": 1.5, "peak_memory_mib": 1, "device": "cpu", "device_name": "cpu", "threads": 1},
    **{"versions": {"ban": "0", "torch": "0", "commit": None}, "finished": "2020-01-01T00:00:00+00:00"},
}


def result_of(stage: Stage, **values: float) -> dict[str, Any]:
    """A stage's result, with these values."""
    metric = stage.dataset.metric
    tested = {f"test_{metric}": 50.0, f"train_{metric}": 50.0} | values
    return {**identity_of(stage), **MEASURED, **tested, "networks": {"0": tested}}


def publish(
    store: Store, stage: Stage, files: Mapping[str, Callable[[Path], Any]] | None = None, **values: float
) -> None:
    """A finished stage, with values of its result and files: name → what writes it."""
    with store.claim(stage.signature) as work:
        assert work is not None
        work.write_json("stage.json", description_of(stage))
        for name, write in (files or {}).items():
            work.write(name, write)
        work.publish(result_of(stage, **values))


def fill(work: Work, stage: Stage) -> None:
    """Writes all files of a stage but the result."""
    work.write_json("stage.json", description_of(stage))
    work.write_curves([{"epoch": n, "rate": 1.0, "seconds": 1.0} for n in range(1, stage.recipe.epochs + 1)])
    work.write("weights.safetensors", partial(save_file, {"w": np.zeros(10, np.float32)}))
    work.write("predictions.safetensors", partial(save_file, predictions_of(stage, wrong=5)))


def predictions_of(stage: Stage, wrong: int) -> dict[str, Any]:
    """Tests in ten equal parts, the first `wrong` of them with little confidence in the wrong class."""
    sizes, last = stage.dataset, stage.dataset.classes - 1
    probabilities = np.full((sizes.test_size, sizes.classes), 0.1 / last, np.float32)
    probabilities[:, 0] = 0.9
    part = np.arange(sizes.test_size) * 10 // sizes.test_size < wrong
    probabilities[part] = 0
    probabilities[part, :2] = [0.45, 0.55]
    return {"log_probabilities": np.log(probabilities + 1e-9), "targets": np.zeros(sizes.test_size, np.int64)}


def publish_predictions(store: Store, stage: Stage, wrong: int) -> None:
    """A finished stage, of whose test examples a tenth times `wrong` are misclassified with little confidence."""
    files = {"predictions.safetensors": partial(save_file, predictions_of(stage, wrong))}
    publish(store, stage, files, test_error_percent=10.0 * wrong, train_error_percent=0.0)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ban", *arguments]


def ban(*arguments: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """The real command in a real process."""
    done = subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("HYDRA_", "BAN_"))} | more


def weights(outputs: Path, signature: str) -> bytes:
    return (outputs / "stages" / signature / "weights.safetensors").read_bytes()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files(folder: Path) -> Sequence[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, like a terminal's."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    words = command(*arguments)
    return subprocess.Popen(words, cwd=folder, text=True, env=environment(), process_group=0, **pipes)


def wait_for(folder: Path, pattern: str, lines: int = 0, seconds: float = 120) -> None:
    """Until there is such a file, with so many lines."""
    deadline = time.monotonic() + seconds
    while not any(_lines(path) >= lines for path in folder.glob(pattern)):
        assert time.monotonic() < deadline, f"{pattern} did not appear in {folder}"
        time.sleep(0.005)


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:  # renamed or published meanwhile
        return -1


def curves(outputs: Path, signature: str) -> list[dict[str, float]]:
    """The records of a stage's epochs."""
    lines = (outputs / "stages" / signature / "curves.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def train_undisturbed(folder: Path, *arguments: str) -> dict[str, bytes]:
    """Trains a command's stages in this process, which has loaded torch already. Returns their weights."""
    settings = compose_settings([*arguments, f"machine.outputs={folder / 'outputs'}"])
    stages = lineage(settings)
    for stage in stages:
        run(stage, host(settings), quiet, Signals())
    return {stage.signature: weights(folder / "outputs", stage.signature) for stage in stages}
