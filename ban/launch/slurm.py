"""Queries and commands of SLURM. Does not import torch."""

import getpass
import re
import socket
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

from ban.errors import UserError


class Partition(NamedTuple):
    """A partition of the cluster."""

    name: str
    gpus: bool
    minutes: int | None
    """The longest time limit of a job; None: unlimited."""


def partition(name: str | None) -> Partition:
    """The named partition, or the default one.

    Raises:
        UserError: there is no such partition, or no SLURM.
    """
    rows = [line.split("|") for line in _ask("sinfo", "-h", "-o", "%P|%G|%l").splitlines()]
    wanted = [row for row in rows if (row[0].rstrip("*") == name if name else row[0].endswith("*"))]
    if not wanted:
        names = ", ".join(dict.fromkeys(row[0].rstrip("*") for row in rows))
        raise UserError(
            f"SLURM has no partition {name}: choose hydra.launcher.partition from {names}."
            if name
            else f"SLURM has no default partition: choose hydra.launcher.partition from {names}."
        )
    return Partition(wanted[0][0].rstrip("*"), any("gpu" in row[1] for row in wanted), _minutes(wanted[0][2]))


def _minutes(limit: str) -> int | None:
    """SLURM's `[days-]hours:minutes:seconds` or `minutes:seconds`; None for infinite."""
    if not re.fullmatch(r"(\d+-)?(\d+:)*\d+", limit):
        return None
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    seconds = parts[-1] + 60 * (parts[-2] if len(parts) > 1 else 0) + 3600 * (parts[-3] if len(parts) > 2 else 0)
    return max(1, int(days or 0) * 1440 + seconds // 60)


def queue() -> dict[str, str]:
    """Job → state, of all queued and running jobs of this user."""
    lines = _ask("squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i|%T").splitlines()
    return dict(line.split("|", 1) for line in lines)


def cancel(jobs: Iterable[str]) -> None:
    """Asks SLURM to cancel the jobs."""
    if jobs := list(jobs):
        subprocess.run(["scancel", *jobs], check=False, start_new_session=True)


def max_array_size() -> int:
    """One more than the largest index of an array."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
    return int(found[1]) if found else 1001


def _ask(*command: str) -> str:
    try:
        # A new session: Ctrl-C must reach this program only, which decides what happens to the jobs.
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, start_new_session=True)
        return done.stdout
    except FileNotFoundError:
        raise UserError(
            f"there is no SLURM on {socket.gethostname()} ({command[0]} is missing): run this on a login node, or "
            "leave out hydra/launcher=slurm."
        ) from None
    except subprocess.TimeoutExpired as error:
        raise UserError(f"SLURM's {command[0]} does not answer within a minute: try again later.") from error
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.strip()] or [f"status {error.returncode}"]
        errors = [line.partition("error: ")[2] for line in said if "error: " in line]
        why = (errors or said)[0].strip()[:200]
        raise UserError(
            f"SLURM's {command[0]} failed on {socket.gethostname()} ({why}): try again later, or on a login node."
        ) from error
