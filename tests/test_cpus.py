import os
from pathlib import Path

import pytest

from ban import cpus

AFFINITY, QUOTA = "the CPU affinity", "the CPU quota of the cgroup"


@pytest.mark.parametrize(
    ("groups", "files", "affinity", "omp", "count", "limit"),
    [
        ("0::/", {}, 16, "", 16, "the machine"),
        ("0::/", {}, 6, "", 6, AFFINITY),
        ("0::/", {"cpu.max": "max 100000"}, 16, "", 16, "the machine"),
        ("0::/job/task", {"job/task/cpu.max": "max 100000", "job/cpu.max": "450000 100000"}, 16, "", 4, QUOTA),
        ("0::/docker/of/the/host", {"cpu.max": "50000 100000"}, 16, "", 1, QUOTA),
        ("2:cpuset:/\n1:cpu,cpuacct:/job", {"cpu,cpuacct/job": "300000 100000"}, 16, "", 3, QUOTA),
        ("1:cpu,cpuacct:/docker/of/the/host", {"cpu,cpuacct": "200000 100000"}, 16, "", 2, QUOTA),
        ("1:cpu:/\n0::/", {"cpu": "-1 100000"}, 16, "", 16, "the machine"),
        ("0::/", {"cpu.max": "400000 100000"}, 8, "2", 2, "OMP_NUM_THREADS"),
        ("0::/", {"cpu.max": "400000 100000"}, 8, "4,2", 4, QUOTA),
        ("0::/", {"cpu.max": "400000 100000"}, 3, "many", 3, AFFINITY),
    ],
)
def test_the_smallest_limit_counts_and_is_named(
    groups: str,
    files: dict[str, str],
    affinity: int,
    omp: str,
    count: int,
    limit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        target = tmp_path / name
        if target.name == "cpu.max":
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"{text}\n")
        else:
            target.mkdir(parents=True)
            for file, value in zip(("cpu.cfs_quota_us", "cpu.cfs_period_us"), text.split(), strict=True):
                (target / file).write_text(f"{value}\n")
    (tmp_path / "own").write_text(f"{groups}\n")
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path)
    monkeypatch.setattr(cpus, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    found = cpus.cpus()
    assert (found.count, found.limit) == (count, limit)
    assert str(found) == ("16 CPUs" if count == 16 else f"{count} of 16 CPUs, limited by {limit}")
