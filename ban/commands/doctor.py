"""`ban doctor`: checks that this machine has what a plan needs."""

import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from filelock import FileLock, Timeout
from rich.filesize import decimal

import ban
from ban.cpus import cpus
from ban.display import show_facts
from ban.errors import UserError
from ban.launch.estimate import disk, free_disk
from ban.launch.slurm import partition
from ban.plan.lineage import lineage, union
from ban.settings.compose import compose_settings
from ban.settings.schema import Settings
from ban.store.files import cause, denied
from ban.store.store import Store
from ban.training import build
from ban.training.arguments import check_arguments
from ban.training.device import Device
from ban.wording import plural

DATA = {"CIFAR-10": ["dataset=cifar10"], "CIFAR-100": ["dataset=cifar100"], "Penn Treebank": ["model=lstm"]}
"""Data set that must be downloaded → settings that use it."""
MARKS = {"good": "✓", "note": "–", "bad": "✗"}
PATIENCE = 60.0
"""Seconds for which the tasks of an `srun` wait for each other."""


class Finding(NamedTuple):
    """One check and its outcome."""

    what: str
    state: Literal["good", "note", "bad"]
    """note: something optional is missing."""
    detail: str


def doctor(jobs: Sequence[Settings]) -> None:
    """Prints what it finds for the jobs' plan. As several tasks of an `srun` it also tries locks between their nodes.

    Raises:
        UserError: something is wrong that would stop a training.
    """
    for job in jobs:
        check_arguments(job)
    settings = jobs[0]
    store = Store(settings.machine.outputs)
    if int(os.environ.get("SLURM_PROCID", "0")):
        _try_lock_of_first_task(store)
        return
    found = [
        Finding("ban", "good", f"{ban.__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    ]
    found += [*_devices(settings), *_store(store), *_data(settings), _disk(jobs, store), _slurm()]
    show_facts([(f"{MARKS[finding.state]}  {finding.what}", finding.detail) for finding in found])
    if wrong := [finding.what for finding in found if finding.state == "bad"]:
        raise UserError(f"problems with {', '.join(wrong)}: the lines above say what to do.")


def _devices(settings: Settings) -> Iterator[Finding]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(count):
        properties = torch.cuda.get_device_properties(number)
        yield Finding(f"GPU {number}", "good", f"{properties.name}, {decimal(properties.total_memory)}")
    if not count:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Finding("GPU", "note", f"none ({built}): trainings run on the CPU")
    capability = torch.backends.cpu.get_cpu_capability()
    bf16 = "emulated: use fp32" if capability in ("DEFAULT", "AVX2") else "supported"
    yield Finding("CPU", "good", f"{cpus()}, {capability}; bf16: {bf16}")
    compiler = "a C++ compiler is installed" if shutil.which("c++") else "needs a C++ compiler"
    yield Finding("machine.compile", "good" if shutil.which("c++") else "note", compiler)
    try:
        device = Device.of(settings.machine)
        yield Finding("machine.device", "good", f"{device.name}, {plural(device.threads, 'thread')}")
    except UserError as error:
        yield Finding("machine.device", "bad", str(error))


def _store(store: Store) -> Iterator[Finding]:
    try:
        store.check_format()
        store.begin()
        probe = store.works / f"doctor.{os.getpid()}.part"
        probe.write_text("")
        probe.unlink()
    except (OSError, UserError) as error:
        reason = cause(error, Path(getattr(error, "filename", None) or store.root))
        yield Finding("store", "bad", f"{store.root} cannot be written ({reason}): choose another machine.outputs")
        return
    yield Finding("store", "good", f"{store.root.resolve()}, {plural(len(store.finished()), 'finished stage')}")
    yield _permissions(store)
    yield _locks(store)


def _permissions(store: Store) -> Finding:
    """Whether this user can read all files, and so can the group of a store whose folder the group may write."""
    shared = store.root.stat()
    closed, of_group = list[Path](), list[Path]()
    for path in store.entries():
        status = path.lstat()
        mine = os.R_OK | (os.W_OK | os.X_OK if stat.S_ISDIR(status.st_mode) else 0)
        group = stat.S_IRGRP | (stat.S_IWGRP | stat.S_IXGRP if stat.S_ISDIR(status.st_mode) else 0)
        if not os.access(path, mine):
            closed.append(path)
        elif shared.st_mode & stat.S_IWGRP and (~status.st_mode & group or status.st_gid != shared.st_gid):
            of_group.append(path)
    if closed:
        return Finding("permissions", "bad", f"{len(closed)} of its files and folders are closed: {denied(closed[0])}")
    if of_group:
        advice = f"run `chgrp -R {shared.st_gid} {store.root} && chmod -R g+rwX {store.root}`"
        detail = f"the group cannot use {len(of_group)} of its files and folders, such as {of_group[0]}: {advice}"
        return Finding("permissions", "note", detail)
    return Finding("permissions", "good", "every file of the store can be read")


def _locks(store: Store) -> Finding:
    """Whether another process, or under srun another node, sees a lock that this process holds."""
    path = _lock_path(store)
    with FileLock(path, fallback_to_soft=False):
        attempt = "import sys, filelock; filelock.FileLock(sys.argv[1], fallback_to_soft=False).acquire(timeout=0)"
        here = subprocess.run([sys.executable, "-c", attempt, path], capture_output=True, text=True, check=False)
        there = _others_attempts(store)
    path.unlink(missing_ok=True)
    if "Timeout" not in here.stderr:
        reason = (
            "the file system has no locks, so two processes could train the same stage: choose another machine.outputs"
        )
        return Finding("locks", "bad", reason)
    if free := [host for host, got in there.items() if got != "held"]:
        return Finding(
            "locks",
            "bad",
            f"a lock that {socket.gethostname()} holds is {there[free[0]]} on {free[0]}, so two nodes could train the "
            "same stage: mount the file system with locks (Lustre: flock; NFS: not nolock), or run one sweep at a time",
        )
    nodes = f", and with {', '.join(sorted(there))}" if there else "; to check them between nodes: srun -N2 ban doctor"
    return Finding("locks", "good", f"work between processes{nodes}")


def _lock_path(store: Store) -> Path:
    step = "-".join(os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return store.works / f"doctor-{step}.lock"


def _others_attempts(store: Store) -> dict[str, str]:
    """Host → the state of the lock that the other tasks of this srun found: `held`, `free` or `not answered`."""
    tasks, path = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")), _lock_path(store)
    if tasks == 1:
        return {}
    path.with_suffix(".held").write_text("")
    expected = [path.with_suffix(f".{rank}") for rank in range(1, tasks)]
    _wait_until(lambda: all(report.exists() for report in expected))
    seen: dict[str, str] = {}
    for report in expected:
        host, _, state = report.read_text().partition(" ") if report.exists() else (report.suffix, "", "not answered")
        seen[host] = state if seen.get(host, "held") == "held" else seen[host]
    for file in (path.with_suffix(".held"), *expected):
        file.unlink(missing_ok=True)
    return seen


def _try_lock_of_first_task(store: Store) -> None:
    """The work of the other tasks of an srun."""
    path = _lock_path(store)
    _wait_until(path.with_suffix(".held").exists)
    try:
        with FileLock(path, fallback_to_soft=False).acquire(timeout=0):
            state = "free"
    except Timeout:
        state = "held"
    report = path.with_suffix(f".{os.environ['SLURM_PROCID']}")
    report.with_suffix(f"{report.suffix}.part").write_text(f"{socket.gethostname()} {state}")
    report.with_suffix(f"{report.suffix}.part").rename(report)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def _data(settings: Settings) -> Iterator[Finding]:
    machine = replace(settings.machine, download=False)
    for title, overrides in DATA.items():
        stage = lineage(compose_settings(overrides))[0]
        try:
            build.data(stage, machine, torch.device("cpu"))
            yield Finding(title, "good", "found, with its checksums")
        except (OSError, UserError) as error:
            status = "will be downloaded" if settings.machine.download else str(error).splitlines()[0]
            yield Finding(title, "note", f"missing or incomplete in {machine.data_dir}: {status}")


def _disk(jobs: Sequence[Settings], store: Store) -> Finding:
    """Free disk space, and the space that the jobs need."""
    try:
        missing = [stage for stage in union(lineage(job) for job in jobs) if not store.has(stage.signature)]
    except UserError as error:  # the store has another format, or one that cannot be read
        return Finding("disk", "bad", str(error))
    needs = [disk(stage) for stage in missing]
    need = sum(each.kept for each in needs) + max((each.temporary for each in needs), default=0)
    free = free_disk(store)
    stages = plural(len(missing), "stage")
    detail = f"{decimal(free)} free; training {stages} with these settings needs {decimal(need)}"
    return Finding("disk", "good" if free > need else "bad", detail)


def _slurm() -> Finding:
    try:
        found = partition(None)
    except UserError as error:
        return Finding("SLURM", "note", str(error))
    limit = f"{found.minutes} minutes" if found.minutes else "no time limit"
    return Finding("SLURM", "good", f"partition {found.name}, {'with' if found.gpus else 'without'} GPUs, {limit}")
