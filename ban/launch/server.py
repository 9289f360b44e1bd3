"""The server that forks the processes of trainings. It imports torch while this process still plans. No torch here."""

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing import forkserver

from ban.errors import UserError
from ban.plan.stage import Stage

PRELOADED = ("ban.__main__", "ban.launch.pool", "ban.training.run", "ban.models", "torch._dynamo")
"""What every child would import for seconds otherwise. Optimizers import torch._dynamo at their first step."""


def start(stages: Iterable[Stage]) -> None:
    """Starts the server for the trainings of these stages, unless it runs.

    Raises:
        UserError: the path of its socket would be too long.
    """
    data = {stage.dataset.function.rpartition(".")[0] for stage in stages}
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOADED, *sorted(data)])
    ensure()


def ensure() -> None:
    """Starts the server, or another one if it was killed.

    Raises:
        UserError: the path of its socket would be too long.
    """
    # Ctrl-C and a closed terminal would end the server. The processes that it forks ignore both signals, too.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        forkserver.ensure_running()
    except OSError as error:
        if "too long" not in str(error):
            raise
        raise UserError(
            f"the path of a temporary folder is too long for a socket ({tempfile.gettempdir()}): set TMPDIR to a "
            "shorter one."
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop() -> None:
    """Ends the server at once. Without this it ends when this process does, but not before its imports are done."""
    process = forkserver._forkserver._forkserver_pid  # pyright: ignore
    if process is not None:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        forkserver._forkserver._stop()  # pyright: ignore
