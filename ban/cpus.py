"""The number of CPUs that this process may use, and what limits it."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ban.wording import plural

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Cpus:
    """The CPUs that a process may use."""

    count: int
    limit: str
    """What limits them."""
    host: int
    """The CPUs of the machine."""

    def __str__(self) -> str:
        if self.count == self.host:
            return plural(self.count, "CPU")
        return f"{self.count} of {plural(self.host, 'CPU')}, limited by {self.limit}"


def cpus() -> Cpus:
    """The smallest of what the machine has and what the process may use.

    A quota of 2.5 CPUs counts as 2, because a thread that the kernel holds back lets all the others wait.
    """
    host = os.cpu_count() or 1
    limits = [(host, "the machine")]
    if hasattr(os, "sched_getaffinity"):
        limits.append((len(os.sched_getaffinity(0)), "the CPU affinity"))
    limits += [(max(1, int(quota)), "the CPU quota of the cgroup") for quota in _quotas()]
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is one number a nesting level
    if threads.isdecimal() and int(threads):
        limits.append((int(threads), "OMP_NUM_THREADS"))
    return Cpus(*min(limits, key=lambda each: each[0]), host)  # of equal ones the first


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
