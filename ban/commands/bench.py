"""`ban bench`: the speed of trainings here, beside plain loops."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress

from ban.bench.gpu import TINY, Check, Sizes, is_failed, write
from ban.bench.measure import MATRIX, Measured, Rate, describe, facts, measure, start_up
from ban.bench.synthetic import without_download
from ban.display import console, is_live, ready, show_table
from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.settings.schema import Settings
from ban.settings.sweeps import jobs_of
from ban.training.arguments import check_arguments
from ban.training.device import Device
from ban.wording import close, plural

CIFAR = ("dataset=cifar100", "recipe=budget_images")
DIGITS = ("dataset=digits", "model=small_conv", "recipe=digits", "method=labels", "machine=single_threaded")
DEFAULT = (
    DIGITS,
    ("model=wrn_16_1", *CIFAR, "method=labels"),
    ("model=wrn_16_2", *CIFAR, "method=labels"),
    ("model=densenet_40_12", *CIFAR, "method=labels", "recipe.batch_size=32"),
    ("model=lstm_small", "dataset=text", "recipe=budget_language", "method=labels"),
    ("model=wrn_16_1", *CIFAR, "method=kd"),
)
"""Settings that are measured where the command names none but the machine's."""


def check_gpu(words: Sequence[str], folder: Path | None = None) -> None:
    """Checks and measures this machine, and writes two files.

    Raises:
        UserError: a setting is not one of the machine's, or there is no such folder.
    """
    places = [word.partition("=")[2] for word in words if word.startswith("folder=")]
    settings = [word for word in words if not word.startswith("folder=")]
    if strange := [word for word in settings if word.lstrip("+~").partition(".")[0] != "machine"]:
        raise UserError(f"ban bench gpu takes folder=DIR and settings of the machine, not {strange[0]}.")
    target = Path(places[-1] if places else ".").expanduser()
    if not target.is_dir():
        raise UserError(f"there is no folder {target}.")
    machine = compose_settings(settings, folder).machine
    ready()
    sizes = TINY if Device.of(machine).name == "cpu" else Sizes()
    if sizes is TINY:
        console.print("There is no GPU: the same code runs at tiny sizes.")
    found = Check(machine, sizes, console.print).run()
    files = write(found, target)
    console.print(f"Written to {files[0]} and {files[1]}.")
    if failed := [name for name, part in found["parts"].items() if is_failed(part)]:
        raise UserError(f"these parts failed: {', '.join(failed)}; {files[1]} says why.")


class Options(NamedTuple):
    """Words of the command that are no settings."""

    rounds: int = 5
    seconds: float = 1.0
    startup: bool = False
    json: Path | None = None

    @classmethod
    def of(cls, words: Sequence[str]) -> tuple["Options", list[str]]:
        """The options, and the words that are none.

        Raises:
            UserError: a value is impossible.
        """
        found, rest = dict[str, Any](), list[str]()
        for word in words:
            key, _, value = word.partition("=")
            if key in cls._fields:
                found[key] = READ[key](key, value)
            else:
                rest.append(word)
        return cls(**found), rest


def _rounds(key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 1000:
        raise UserError(f"{key} is {value or 'empty'}; it must be a whole number from 1 to 1000.")
    return int(value)


def _seconds(key: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 3600:
        raise UserError(f"{key} is {value or 'empty'}; it must be a number from 0 to 3600.")
    return found


def _flag(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise UserError(f"{key} is {value or 'empty'}; it must be true or false.")
    return value == "true"


def file_to_write(key: str, value: str) -> Path:
    """A file in a folder that exists.

    Raises:
        UserError: there is no such folder, or the file is a folder.
    """
    path = Path(value).expanduser()
    if not value or path.is_dir():
        raise UserError(f"{key} is {value or 'empty'}; it must be the name of a file.")
    if not path.parent.is_dir():
        raise UserError(f"{key}={value}: there is no folder {path.parent}.")
    return path


READ: dict[str, Callable[[str, str], Any]] = {
    "rounds": _rounds,
    "seconds": _seconds,
    "startup": _flag,
    "json": file_to_write,
}


def bench(words: Sequence[str], folder: Path | None = None) -> None:
    """Measures the settings of a command, or `DEFAULT`, and shows a table.

    Raises:
        UserError: a setting or an option is unknown or impossible.
    """
    options, settings = Options.of(words)
    jobs = _jobs(settings, folder)
    before, found = facts(jobs[0].machine), list[Measured]()
    ready()
    with Progress(console=console, transient=True, disable=not is_live()) as progress:
        for job in progress.track(jobs, description="measuring"):
            stage = lineage(job)[-1]
            progress.console.print(f"{describe(stage)}: {plural(options.rounds, 'round')}")
            found.append(measure(stage, job.machine, options.rounds, options.seconds))
    started = (
        start_up([*DIGITS, f"machine.device={before['device']}"], min(options.rounds, 3)) if options.startup else None
    )
    content = before | {
        "load_after": facts(jobs[0].machine)["load"],
        "rounds": options.rounds,
        "seconds": options.seconds,
    }
    content |= {"start_up_seconds": started and asdict(started), "settings": [each.as_json() for each in found]}
    show(found, started, content)
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        console.print(f"Written to {options.json}.")


def _jobs(settings: Sequence[str], folder: Path | None) -> list[Settings]:
    """The jobs whose last stages are measured: each kind of training once.

    Raises:
        UserError: a setting is unknown or impossible.
    """
    keys = [word.partition("=")[0].lstrip("+~") for word in settings]
    for key in keys:
        if "." not in key and (meant := close(key, Options._fields)):
            raise UserError(f"there is no option {key}: did you mean {meant}?")
    chosen = [settings]
    if all(key.partition(".")[0] == "machine" for key in keys):
        chosen = [[*words, *settings] for words in DEFAULT]
    jobs = [job for words in chosen for job in jobs_of(words, folder)]
    for job in jobs:
        check_arguments(job)
    return [*{lineage(job)[-1].step_kind: without_download(job) for job in jobs}.values()]


# The table


def show(found: Sequence[Measured], started: Rate | None, content: dict[str, Any]) -> None:
    """Prints what was measured."""
    rows = [_row(each) for each in found]
    show_table(
        rows,
        caption="Training by ban, by a script (DataLoader with workers, torchvision's transforms) and by a plain loop "
        "in memory, both in fp32; then ban's training step alone, evaluation and data: examples per second, medians of "
        "the rounds. Ratios: median (lowest to highest round). MiB: tensors of a training step, in the same order. "
        f"GFLOP/s: of the step, and its share of a product of two {MATRIX}×{MATRIX} matrices.",
    )
    for each in found:
        if each.no_reference:
            console.print(f"{each.setting} has no references: {each.no_reference}.")
    load = f", load {content['load']:.1f} to {content['load_after']:.1f}" if content["load"] is not None else ""
    where = content["cpu"] if content["device"] == "cpu" else content["device_name"]
    console.print(
        f"{content['device']}: {where}, {plural(content['threads'], 'thread')}, torch {content['torch']}, "
        f"{content['date']}{load}."
    )
    if started:
        console.print(f"From the start of a process to its first training step: {started.median:.1f} s.")


def _row(each: Measured) -> dict[str, str]:
    memory = " / ".join(_number(value) for value in each.memory_mib.values())
    return {
        "setting": each.setting,
        "ban": f"{_number(each.ban.median)} {each.examples}",
        "script": _number(each.script.median) if each.script else "",
        "in memory": _number(each.in_memory.median) if each.in_memory else "",
        "ban / script": _times(each.times_script),
        "ban / in memory": _times(each.times_in_memory),
        "step": _number(each.step.median),
        "evaluation": _number(each.evaluation.median),
        "data": _number(each.data.median),
        "MiB": memory,
        "GFLOP/s": _number(each.flops_per_second.median / 1e9),
        "of a product": f"{each.share_of_matmul.median:.1%}",
    }


def _times(rate: Rate | None) -> str:
    return f"{rate.median:.2f} ({rate.low:.2f} to {rate.high:.2f})" if rate else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
