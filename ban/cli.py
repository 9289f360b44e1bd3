"""The `ban` command: settings for Hydra, or a sub-command and settings."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ban.config import COMPOSITION_ERRORS, CONF, compose_settings, sentence, settings
from ban.errors import UserError


def main() -> None:
    """The console script.

    Raises:
        SystemExit: with one sentence, when the request cannot be met.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors arrive here instead of being printed
    words = sys.argv[1:]
    try:
        if not words:
            sys.argv.append("--help")
        if words and words[0] in COMMANDS:
            COMMANDS[words[0]](words[1:])
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


def _table(arguments: Sequence[str]) -> None:
    """`ban table [NAME] [KEY=VALUE …]`: NAME: a number of the paper, an experiment, methods or diagnostics."""
    from ban.commands.table import table

    if any(word.startswith("-") for word in arguments):
        raise UserError(
            "use: ban table [NAME] [KEY=VALUE …], where NAME is 1 to 6, an experiment, methods or diagnostics."
        )
    names, overrides = _split(arguments)
    if len(names) > 1:
        raise UserError(f"ban table takes one name, not {len(names)} ({', '.join(names)}).")
    table("".join(names), overrides)


def _status(arguments: Sequence[str]) -> None:
    """`ban status [KEY=VALUE …]`: KEY: machine.outputs, if it is not the usual folder."""
    from ban.commands.status import status
    from ban.launch.journal import Journal

    if any(word.startswith("-") or "=" not in word for word in arguments):
        raise UserError("use: ban status [machine.outputs=DIR].")
    settings, _ = compose_settings(arguments)
    status(Journal(Path(settings["machine"]["outputs"]).expanduser()))


def _stages(arguments: Sequence[str]) -> None:
    """`ban stages [ACTION] [WORD …] [KEY=VALUE …]`: KEY: machine.outputs, yes."""
    from ban.commands.stages import USE, stages

    if any(word.startswith("-") for word in arguments):
        raise UserError(USE)
    words, overrides = _split(arguments)
    settings, _ = compose_settings(overrides)
    stages(words, settings)


def _doctor(arguments: Sequence[str]) -> None:
    """`ban doctor [KEY=VALUE …]`: whether this machine has what the settings' plan needs."""
    from ban.commands.doctor import doctor
    from ban.launch.union import expand

    words, overrides = _split(arguments)
    if words:
        raise UserError("use: ban doctor [KEY=VALUE …], with the settings of a command that is to be run here.")
    _, hydra = compose_settings(overrides)
    jobs = expand(hydra["sweeper"]["sweeps"], overrides, hydra["sweeper"]["at"])
    doctor([compose_settings(job)[0] for job in jobs])


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A sub-command's own words, and settings."""
    return [word for word in arguments if "=" not in word], [word for word in arguments if "=" in word]


COMMANDS = {"table": _table, "status": _status, "stages": _stages, "doctor": _doctor}
