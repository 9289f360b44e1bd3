"""The `ban` command: settings for Hydra, or a sub-command and settings."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ban import __version__
from ban.config import COMPOSITION_ERRORS, CONF, compose_settings, sentence, settings
from ban.errors import UserError


def main() -> None:
    """The console script.

    Raises:
        SystemExit: with one sentence, when the request cannot be met.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors arrive here instead of being printed
    words = sys.argv[1:]
    folder, rest = (words[1:2], words[2:]) if words[:1] == ["--config-dir"] else ([], words)
    try:
        if not words:
            sys.argv.append("--help")
        if rest and rest[0] in COMMANDS:
            _command(rest[0], rest[1:], folder)
        elif words == ["--version"]:
            print(f"ban {__version__}")
        elif words and not words[0].startswith("-") and "=" not in words[0]:
            raise UserError(
                f"'{words[0]}' is neither a sub-command ({', '.join(COMMANDS)}) nor KEY=VALUE; see ban --help."
            )
        else:
            _train()
    except UserError as error:
        raise SystemExit(f"ban: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except COMPOSITION_ERRORS as error:
        raise SystemExit(f"ban: {sentence(error)}") from None


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _train(config: DictConfig) -> None:
    try:
        job = settings(config)
    except UserError as error:  # Hydra prints a line of its own for exceptions
        raise SystemExit(f"ban: {error}") from None
    if HydraConfig.get().runtime.choices["hydra/launcher"] == "slurm" and HydraConfig.get().mode == RunMode.RUN:
        raise SystemExit("ban: hydra/launcher=slurm submits sweeps: say `ban -m …`, also for a single job.")
    from ban.launch.command import Here, execute  # torch: not before there is work

    execute([job], Here())


def _command(name: str, arguments: Sequence[str], folder: Sequence[str]) -> None:
    """A sub-command with its own words, and with settings from a folder of the user's too, if there is one."""
    act, use = COMMANDS[name]
    if {"-h", "--help"} & set(arguments):
        print(use)
        return
    words = [word for word in arguments if "=" not in word]
    if any(word.startswith("-") for word in words):
        raise UserError(f"ban {name} knows no options; `ban {name} --help` says how to use it.")
    settings = [f"hydra.searchpath=['{Path(each).resolve()}']" for each in folder]
    act(words, settings + [word for word in arguments if "=" in word])


def _table(words: Sequence[str], overrides: Sequence[str]) -> None:
    from ban.commands.table import table

    if len(words) > 1:
        raise UserError(f"ban table takes one name, not {len(words)} ({', '.join(words)}).")
    table("".join(words), overrides)


def _status(words: Sequence[str], overrides: Sequence[str]) -> None:
    from ban.commands.status import status
    from ban.launch.journal import Journal

    if words:
        raise UserError(COMMANDS["status"].use)
    settings, _ = compose_settings(overrides)
    status(Journal(Path(settings["machine"]["outputs"]).expanduser()))


def _stages(words: Sequence[str], overrides: Sequence[str]) -> None:
    from ban.commands.stages import stages

    settings, _ = compose_settings(overrides)
    stages(words, settings)


def _doctor(words: Sequence[str], overrides: Sequence[str]) -> None:
    from ban.commands.doctor import doctor
    from ban.launch.union import expand

    if words:
        raise UserError(COMMANDS["doctor"].use)
    _, hydra = compose_settings(overrides)
    jobs = expand(hydra["sweeper"]["sweeps"], overrides, hydra["sweeper"]["at"])
    doctor([compose_settings(job)[0] for job in jobs])


class Command(NamedTuple):
    """A sub-command."""

    act: Callable[[Sequence[str], Sequence[str]], None]
    """Takes its own words, and settings."""
    use: str


COMMANDS = {
    "table": Command(
        _table, "use: ban table [NAME] [KEY=VALUE …], where NAME is 1 to 6, an experiment, methods or diagnostics."
    ),
    "status": Command(_status, "use: ban status [machine.outputs=DIR]."),
    "stages": Command(
        _stages,
        """use: ban stages [list] [WORD …]        the finished stages whose description has all the words
     ban stages show SIGNATURE         all about one; its first characters are enough
     ban stages verify [WORD …]        compare every file with its checksum
     ban stages remove WORD …          those that no other stage learned from, after a question; yes=true answers it
     ban stages remove unfinished      the checkpoints of trainings that nobody goes on with now
     ban stages export SIGNATURE FILE  one stage as one file
     ban stages import FILE            into the store
machine.outputs=DIR names another store.""",
    ),
    "doctor": Command(_doctor, "use: ban doctor [KEY=VALUE …], with the settings of a command that is to be run here."),
}
