"""A real SLURM of one node in a folder: its three daemons run as this user, without systemd, cgroups or accounting."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
INSTALLED = all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in PROGRAMS)

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0,defer_batch
JobRequeue=1
KillWait=5
InactiveLimit=0
MaxArraySize=3
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


@contextmanager
def one_node_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Runs one as long as the context lasts; gives the environment that its commands need."""
    folder.chmod(0o755)
    for name in ("munge", "state", "spool", "devices"):
        (folder / name).mkdir(mode=0o755)
    for number in range(2):  # pretended GPUs: SLURM insists on character devices
        (folder / "devices" / f"nvidia{number}").symlink_to("/dev/null")
    host = socket.gethostname().partition(".")[0]
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    ports = {"controller_port": _free_port(), "node_port": _free_port()}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, user=user, folder=folder, **ports))
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/devices/nvidia[0-1]\n")
    environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf"}
    environment["PATH"] += ":/usr/sbin:/sbin"
    munge = folder / "munge"
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o600)
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    daemons = (
        ["munged", "--force", *(f"--{option}={munge / name}" for option, name in files.items())],
        ["slurmctld", "-c"],
        ["slurmd", "-N", host],
    )
    try:
        for daemon in daemons:
            subprocess.run(daemon, env=environment, check=True, capture_output=True, timeout=30)
        _wait_until(lambda: "idle" in _output(environment, "sinfo", "-h", "-o", "%T"))
        yield environment
    finally:
        subprocess.run(["scancel", "-u", user], env=environment, check=False)
        _wait_until(lambda: not _output(environment, "squeue", "-h"))  # a job outlives its daemons
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            if (folder / name).exists():
                os.kill(int((folder / name).read_text()), signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "SLURM's node does not come up, or has jobs that do not end"
        time.sleep(0.1)


def _output(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
