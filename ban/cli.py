"""The `ban` command: settings for Hydra, or a sub-command and settings."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ban.commands import help as help_
from ban.display import busy, ready
from ban.errors import UserError
from ban.output import tolerate_failures
from ban.settings.checks import validated
from ban.settings.compose import compose_settings, freeze, register_teachers
from ban.settings.files import CONF, files_of
from ban.settings.hydra_versions import VERSION_BASE
from ban.settings.messages import explain, is_composition_error
from ban.settings.schema import LocalLauncherSettings, Settings, SlurmLauncherSettings
from ban.settings.types import Part, keys_of
from ban.settings.words import read
from ban.wording import close


def main() -> None:
    """The console script.

    Raises:
        SystemExit: with one sentence, if the command is refused or fails.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises errors instead of printing them
    tolerate_failures()
    try:
        _run(sys.argv[1:])
    except UserError as error:
        raise SystemExit(f"ban: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if not is_composition_error(error):
            raise
        raise SystemExit(f"ban: {explain(error, CONF)}") from None
    finally:
        ready()


def _run(words: Sequence[str]) -> None:
    folder, rest = _config_folder(words)
    first = rest[0] if rest else ""
    if first in COMMANDS:
        _command(first, rest[1:], folder)
    elif help_.answers(words):
        return
    elif {"-h", "--help"} & {*rest}:
        help_.screen()
    elif first and not first.startswith(("-", "~")) and "=" not in first:
        raise UserError(f"'{first}' is neither a sub-command nor KEY=VALUE: {_meant(first, folder)}")
    else:
        _check_options(rest)
        if first in ("-sc", "--shell-completion") and _complete():
            return
        sys.argv[1:] = read(sys.argv[1:])
        _sweep_experiments()
        register_teachers(folder)
        _train()


def _meant(word: str, folder: Path | None) -> str:
    """What a word that means nothing may stand for."""
    if meant := close(word, COMMANDS):
        return f"did you mean `ban {meant}`?"
    for group in help_.GROUPS:
        if word in files_of(group, folder):
            return f"did you mean `ban {group}={word}`?"
    return f"see `ban --help`. Sub-commands are {', '.join(COMMANDS)}; without one, ban trains."


HYDRA_OPTIONS = (
    *("--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    *("--experimental-rerun", "--info", "-i"),
)


def _check_options(words: Sequence[str]) -> None:
    """Refuses a setting that is written as an option.

    Raises:
        UserError: Hydra has no such option.
    """
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name.startswith("-") and not any(option.startswith(name) for option in HYDRA_OPTIONS):
            value = value or ("VALUE" if not after or after.startswith("-") or "=" in after else after)
            key = name.lstrip("-").replace("-", "_")
            raise UserError(f"there is no option {name}: settings have no dashes, as in {key}={value}.")


def _complete() -> bool:
    """Prints the sub-commands that complete the line of the shell, and whether no setting may stand there."""
    line, point = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", "")
    line = line[: int(point)] if point.isdigit() else line
    words = {**dict.fromkeys(COMMANDS, ()), **FOLLOWING}
    for found in help_.completions(line, words):
        print(found)
    return " " in line.strip() and line.split()[1] in words


def _sweep_experiments() -> None:
    """Sets the sweep mode on the command line: Hydra 1.4 refuses an experiment's file that sets it."""
    if any(word.startswith("hydra.mode=") for word in sys.argv):
        return
    for place, word in enumerate(sys.argv):
        if word.startswith("experiment="):
            sys.argv.insert(place, "hydra.mode=MULTIRUN")
            return


@hydra.main(**VERSION_BASE, config_path=str(CONF), config_name="config")
def _train(config: DictConfig) -> None:
    try:
        job = freeze(config)
        _check_launcher()
    except UserError as error:  # Hydra would print a line of its own
        raise SystemExit(f"ban: {error}") from None
    from ban.launch.command import execute

    execute([job], _in_this_process)


def _in_this_process(settings: Settings) -> Any:
    from ban.launch.execute import InProcess  # imports torch, which only trainings need

    return InProcess(settings)


def _check_launcher() -> None:
    """Checks the options of the launcher, which Hydra itself makes for sweeps only.

    Raises:
        UserError: an option is unknown or impossible, or the launcher is for sweeps.
    """
    options: Any = OmegaConf.to_container(OmegaConf.create(HydraConfig.get().launcher or {}), resolve=True)
    name = str(options.pop("_target_", "")).rpartition(".")[2]
    if not name:
        raise UserError("hydra.launcher has no _target_: choose a file with hydra/launcher=local.")
    if name in LAUNCHERS:  # not one of Hydra's own, which call this for every job
        validated(LAUNCHERS[name], options, "hydra.launcher")
    if name == "SlurmLauncher" and HydraConfig.get().mode == RunMode.RUN:
        raise UserError("hydra/launcher=slurm submits sweeps: use `ban -m …`, also for a single job.")


LAUNCHERS: dict[str, type[Part]] = {"LocalLauncher": LocalLauncherSettings, "SlurmLauncher": SlurmLauncherSettings}


def _config_folder(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder of Hydra's option --config-dir, and the other words.

    Raises:
        UserError: there is no such folder.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", type=Path)
    try:  # -cd is its short form; this parser would take Hydra's -c for an abbreviation of it
        known, rest = parser.parse_known_args(["--config-dir" if word == "-cd" else word for word in words])
    except argparse.ArgumentError as error:
        raise UserError(f"{error}.") from None
    if known.config_dir is not None and not known.config_dir.is_dir():
        raise UserError(f"there is no folder {known.config_dir} for --config-dir.")
    return known.config_dir, rest


def _command(name: str, arguments: Sequence[str], folder: Path | None) -> None:
    """Runs a sub-command with its words and settings, and with the settings in the user's folder."""
    act, use = COMMANDS[name]
    if {"-h", "--help"} & set(arguments):
        print(use)
        return
    with_file = name in ("predict", "export", "report", "track") or (
        name == "stages" and {"export", "import"} & set(arguments)
    )
    places = (place for place in (CONF, folder) if place)
    groups = {path.name for place in places for path in place.iterdir() if path.is_dir()}  # such as scale
    names = {*keys_of(Settings), "hydra", *groups}
    settings = [word for word in arguments if (_names(word, names) if with_file else _is_setting(word))]
    words = [word for word in arguments if word not in settings]
    if any(word.startswith("-") for word in words):
        raise UserError(f"ban {name} has no option but --config-dir; `ban {name} --help` shows its use.")
    if name not in ("bench", "doctor", "predict", "export"):  # those import torch
        ready()
    act(words, settings, folder)


def _is_setting(word: str) -> bool:
    return "=" in word or word.startswith("~")


def _names(word: str, settings: Container[str]) -> bool:
    """Whether a word sets one of these settings. It may be a file, whose name may contain = or begin with ~."""
    part = re.match(r"[+~]*(\w+)[^=]*=", word)
    return part is not None and part[1] in settings


def _table(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.table import table

    if len(words) > 1:
        raise UserError(f"ban table takes one name, not {len(words)} ({', '.join(words)}).")
    table("".join(words), overrides, folder)


def _status(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.status import follow, status
    from ban.launch.journal import Journal
    from ban.store.store import Store

    modes = {"follow=true": follow, "follow=false": status}
    if words:
        raise UserError(COMMANDS["status"].use)
    show = [modes[word] for word in overrides if word in modes]
    settings = compose_settings([word for word in overrides if word not in modes], folder)
    ready()
    (show or [status])[-1](Journal(Store(settings.machine.outputs)))


def _help(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    if overrides or len(words) > 1:
        raise UserError(COMMANDS["help"].use)
    if words and words[0] in COMMANDS:
        print(COMMANDS[words[0]].use)
    elif words:
        help_.choices(words[0], folder)
    else:
        help_.screen()


def _methods(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.methods import methods

    if overrides or len(words) > 1:
        raise UserError(COMMANDS["methods"].use)
    methods(words, folder)


def _stages(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.stages import stages

    stages(words, compose_settings(overrides, folder))


def _report(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.report import report

    figures = [word for word in words if word.startswith("figures=")]
    names = [word for word in words if word not in figures]
    if len(names) > 1:
        raise UserError(COMMANDS["report"].use)
    target = Path(figures[-1].removeprefix("figures=")).expanduser() if figures else None
    report("".join(names), overrides, target, folder)


def _compare(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.compare import compare

    compare(words, compose_settings(overrides, folder))


def _predict(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.predict import predict  # imports torch

    outputs = [word for word in words if word.startswith("output=")]
    output = Path(outputs[-1].removeprefix("output=")).expanduser() if outputs else None
    predict([word for word in words if word not in outputs], output, compose_settings(overrides, folder))


def _export(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.export import export  # imports torch

    if len(words) != 2:
        raise UserError(COMMANDS["export"].use)
    export(words[0], Path(words[1]).expanduser(), compose_settings(overrides, folder))


def _track(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.track import import_stages

    chosen = [word.partition("=")[2].strip("[]") for word in words if word.startswith("trackers=")]
    names = [word for word in words if not word.startswith("trackers=")]
    if names[:1] != ["import"]:
        raise UserError(COMMANDS["track"].use)
    settings = [f"machine.trackers=[{each}]" for each in chosen]
    import_stages(names[1:], compose_settings([*overrides, *settings], folder))


def _bench(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    busy("loading torch")
    from ban.commands.bench import bench, check_gpu  # imports torch

    if [*words] not in ([], ["gpu"]):
        raise UserError(COMMANDS["bench"].use)
    (check_gpu if words else bench)(overrides, folder)


def _doctor(words: Sequence[str], overrides: Sequence[str], folder: Path | None) -> None:
    from ban.commands.doctor import doctor
    from ban.settings.sweeps import jobs_of

    if words:
        raise UserError(COMMANDS["doctor"].use)
    doctor(jobs_of(overrides, folder))


class Command(NamedTuple):
    """A sub-command."""

    act: Callable[[Sequence[str], Sequence[str], Path | None], None]
    """Arguments: the words, the settings, and the user's folder of settings."""
    use: str


COMMANDS = {
    "table": Command(
        _table, "use: ban table [NAME] [KEY=VALUE …], where NAME is 1 to 6, an experiment, methods or diagnostics."
    ),
    "status": Command(
        _status, "use: ban status [follow=true] [machine.outputs=DIR]; follow=true shows it until all is done."
    ),
    "stages": Command(
        _stages,
        """use: ban stages [list] [WORD …]        list the finished stages whose description contains all words
     ban stages show SIGNATURE         show one stage; the first characters of its signature are enough
     ban stages verify [WORD …]        compare every file with its checksum
     ban stages remove WORD …          remove stages that have no students; asks first, unless yes=true
     ban stages remove unfinished      remove the checkpoints of trainings that no process continues
     ban stages export SIGNATURE FILE  write a stage to one file
     ban stages import FILE            add an exported stage to the store
machine.outputs=DIR selects another store.""",
    ),
    "report": Command(
        _report,
        """use: ban report [EXPERIMENT] [figures=DIR] [KEY=VALUE …]
Writes an HTML file about an experiment or the whole store, and the figures as files for papers.""",
    ),
    "compare": Command(
        _compare,
        """use: ban compare SIGNATURE SIGNATURE   two stages: settings, results, test examples, and repetitions
     ban compare DIR DIR               what two stores have in common
machine.outputs=DIR selects the store of the stages.""",
    ),
    "predict": Command(
        _predict,
        """use: ban predict SIGNATURE [SIGNATURE …] FILE|DIR … [output=FILE.csv|FILE.jsonl]
Classes of images and of rows (.csv, .tsv), perplexities of texts (.txt). Several signatures: their probabilities are
averaged. `ban stages` lists the signatures; their first characters are enough.
machine.outputs=DIR selects another store.""",
    ),
    "export": Command(
        _export,
        """use: ban export SIGNATURE DIR
Writes a folder that can be used without ban: weights, a torch program, an ONNX file if onnx and onnxruntime are
installed, preprocessing and classes, a script that predicts, and a description.
machine.outputs=DIR selects another store.""",
    ),
    "track": Command(
        _track,
        """use: ban track import [WORD …] trackers=TRACKER[,TRACKER …]
Brings finished stages whose description contains all words, or all stages, into trackers: tensorboard, mlflow, wandb.
MLflow, and W&B with a server, do not get again what they have.
machine.outputs=DIR selects another store. machine.track_weights=true adds weights to runs that are incomplete.""",
    ),
    "bench": Command(
        _bench,
        """use: ban bench [KEY=VALUE …] [rounds=5] [seconds=1] [startup=true] [json=FILE]
     ban bench gpu [folder=DIR] [machine.device=…]
Measures how fast trainings with these settings are here, or six common ones: images, rows or words per second beside
two plain loops, the parts of a step, peak memory, and operations per second beside those of a matrix product. In each
round each is measured for these seconds, one step at least. startup=true adds the start of a process, json=FILE writes
a file. CIFAR's images are replaced by random ones of their shape: nothing is downloaded.
gpu: checks all methods on a GPU, exact resume, speed, memory and sweeps in about ten minutes, and writes
gpu-check.json and gpu-check.md.""",
    ),
    "doctor": Command(
        _doctor, "use: ban doctor [KEY=VALUE …], with the settings of a command that you want to run here."
    ),
    "methods": Command(_methods, "use: ban methods [NAME]: all methods by group, or what one of them is and needs."),
    "help": Command(_help, "use: ban help [KEY], where KEY is a setting that chooses a file, or a sub-command."),
}

FOLLOWING: dict[str, Sequence[str]] = {
    "table": ("methods", "diagnostics", *help_.files_of("experiment")),
    "stages": ("list", "show", "verify", "remove", "export", "import"),
    "report": (*help_.files_of("experiment"),),
    "track": ("import",),
    "bench": ("gpu",),
    "methods": (*help_.files_of("method"),),
    "help": (*help_.GROUPS,),
}
"""Sub-command → words that may follow it, for completion."""
