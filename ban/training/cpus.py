"""The number of CPUs that this process may use, and what limits it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class Cpus(NamedTuple):
    """A number of CPUs, and where it comes from."""

    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    source: str


def cpus() -> Cpus:
    """The smallest of what the machine has and what the process is given.

    A quota of 2.5 CPUs counts as 2, because a thread that the kernel holds back lets all the others wait.
    """
    host = os.cpu_count() or 1
    given = [Cpus(host, "all of this machine")]
    if hasattr(os, "sched_getaffinity"):
        given.append(Cpus(len(os.sched_getaffinity(0)), "CPU affinity"))
    given += [Cpus(max(1, int(quota)), "CPU quota of the control group") for quota in _quotas()]
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is one number a nesting level
    if threads.isdecimal() and int(threads):
        given.append(Cpus(int(threads), "OMP_NUM_THREADS"))
    return min(given, key=lambda each: each.count)  # of equal ones the first


def _quotas() -> Iterator[float]:
    """The CPU quotas of this process's control groups and of those above them, in CPUs."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's; the root then is the container's own group.
        for group in [PurePosixPath(path), *PurePosixPath(path).parents]:
            yield from _quota(CGROUPS / controllers / group.relative_to("/"))


def _quota(group: Path) -> Iterator[float]:
    """A group's quota, if it has one: `cpu.max` in version 2, two files in version 1."""
    text = _read(group / "cpu.max") or f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    if match := re.fullmatch(r"(\d+) ([1-9]\d*)", text.strip()):  # otherwise max, -1 or no such file
        yield int(match[1]) / int(match[2])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
