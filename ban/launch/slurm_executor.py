"""Trains stages as SLURM jobs. submitit submits and requeues them; the store and the notes hold their progress."""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from filelock import FileLock
from submitit.core.utils import FailedJobError
from submitit.helpers import DelayedSubmission

from ban.display import console
from ban.errors import Interrupted, UserError
from ban.events import Event, Failed, Failures, Finished, Report, Running
from ban.launch import snapshot
from ban.launch.journal import Journal, JournalReport, Note, report_failures
from ban.launch.slurm import cancel, max_array_size, partition, queue
from ban.plan.stage import Stage
from ban.settings.schema import Machine, Settings, SlurmLauncherSettings
from ban.store.result import outcome
from ban.store.store import Store
from ban.training import build
from ban.training.device import Device
from ban.training.run import Host, run
from ban.training.signals import Signals
from ban.wording import plural

PREEMPTION = signal.SIGUSR2
"""The signal that submitit asks SLURM to send before the time limit, and that clusters send before a preemption."""
POLL_SECONDS = 2.0
QUEUE_SECONDS = 10.0
"""Between two `squeue` calls: SLURM's controller is shared by many users."""
CANCEL_SECONDS = 60.0
"""The longest time to wait for cancelled jobs."""


class Slurm:
    """Submits every missing stage once, as a job of its own, and follows the jobs: an `Executor`."""

    def __init__(self, settings: Settings, options: SlurmLauncherSettings) -> None:
        self.options = options
        self.partition = partition(options.partition)
        machine = settings.machine
        self.machine = replace(
            machine,
            outputs=machine.outputs.resolve(),
            data_dir=machine.data_dir.resolve(),
            threads=machine.threads or options.cpus,
        )

    @property
    def description(self) -> str:
        """See `Executor`."""
        return f"the SLURM partition {self.partition.name}, one job each"

    @property
    def starting(self) -> str:
        """See `Executor`."""
        return "starting, or waiting in SLURM's queue"

    @property
    def device_type(self) -> str:
        """See `Executor`."""
        return "cuda" if self._on_gpus else "cpu"

    @property
    def _on_gpus(self) -> bool:
        return bool(self.partition.gpus) and self.machine.device != "cpu"

    def check(self, missing: Sequence[Stage]) -> None:
        """See `Executor`."""
        if self.options.checkpoint_minutes >= self._minutes():
            raise UserError(
                f"hydra.launcher.checkpoint_minutes is {self.options.checkpoint_minutes}; it must be below the "
                f"{self._minutes()} minutes of a job."
            )
        build.fetch(missing, self.machine)

    def train(self, missing: Sequence[Stage], journal: Journal, report: Report) -> Failures | None:
        """See `Executor`."""
        if not missing:
            return {}
        self.journal = journal
        mine: dict[str, str] = {}
        with Signals().caught() as signals:
            try:
                jobs = self._submit(missing, mine)
                if self.options.detach:
                    console.print(f"`ban status machine.outputs={self.journal.store.root}` shows their progress.")
                    return None
                return self._follow(missing, jobs, report, signals)
            except (Interrupted, UserError):
                if signals.number and self.options.on_interrupt == "cancel":
                    cancel_and_wait(mine, journal)
                elif mine:
                    jobs_left = plural(len(mine), "job")
                    console.print(f"This command leaves {jobs_left} in the queue; `ban status` shows their progress.")
                signals.check()  # Ctrl-C in a terminal also ends SLURM's commands: report the signal, not their failure
                raise

    def _minutes(self) -> int:
        """The time limit of a job, in minutes."""
        return min(self.options.minutes, self.partition.minutes or self.options.minutes)

    # Submission

    def _submit(self, missing: Sequence[Stage], mine: dict[str, str]) -> dict[str, str]:
        """Signature → job of all missing stages. The jobs that this call submits are added to `mine`, too.

        A lock excludes concurrent submissions, so the later one finds the jobs of the earlier one.
        """
        folder = self.journal.store.root / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "submission.lock", fallback_to_soft=False, preserve_lock_file=True):
            frozen = snapshot.freeze(missing, self.journal.store)
            self.executor = self._executor(folder, frozen)
            jobs = self._queued_already(missing)
            shared, new = len(jobs), [stage for stage in missing if stage.signature not in jobs]
            try:
                while new:
                    for parents, stages in _ready(new, jobs).items():
                        self._submit_array(stages, parents, frozen, mine)
                        jobs |= mine
                    new = [stage for stage in new if stage.signature not in jobs]
            except (FailedJobError, subprocess.SubprocessError) as error:
                raise UserError(f"SLURM refused a job: {' '.join(str(error).split())[-300:]}.") from error
        numbers = sorted({int(job.partition("_")[0]) for job in jobs.values()})
        earlier = f", {shared} of them by another command" if shared else ""
        arrays = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        console.print(f"Submitted {plural(len(jobs), 'job')}{earlier}, in {plural(len(numbers), 'array')}: {arrays}.")
        return jobs

    def _queued_already(self, missing: Sequence[Stage]) -> dict[str, str]:
        known = {stage.signature: self.journal.note(stage.signature) for stage in missing}
        alive = queue()
        return {name: note.job for name, note in known.items() if note is not None and note.job in alive}

    def _submit_array(
        self, stages: Sequence[Stage], parents: frozenset[str], frozen: Path, mine: dict[str, str]
    ) -> None:
        """Submits an array that waits for all the parents' jobs, or several where SLURM limits an array's size."""
        dependency = {"dependency": f"afterok:{':'.join(sorted(parents))}", "kill-on-invalid-dep": "yes"}
        given = {key.replace("_", "-"): value for key, value in self.options.directives.items()}
        self.executor.update_parameters(additional_parameters={**given, **(dependency if parents else {})})
        width = max_array_size() - 1
        for chunk in (stages[start : start + width] for start in range(0, len(stages), width)):
            tasks = [Task(stage, self.machine, frozen) for stage in chunk]
            submitted = (
                self.executor.map_array(Task.__call__, tasks) if len(tasks) > 1 else [self.executor.submit(tasks[0])]
            )
            for stage, job in zip(chunk, submitted, strict=True):
                mine[stage.signature] = job.job_id
                self.journal.write(Note.by_this_process(stage, "waiting", job=job.job_id))

    def _executor(self, folder: Path, frozen: Path) -> submitit.SlurmExecutor:
        options = self.options
        # Ignore the signal until Python handles it. -P: import the frozen code, not the working folder's.
        python = f"""sh -c 'trap "" {PREEMPTION.name[3:]}; exec "$0" -P "$@"' {shlex.quote(sys.executable)}"""
        executor = submitit.SlurmExecutor(folder, max_num_timeout=10**9, python=python)  # no limit to requeueing
        gres = options.gres
        if gres == "auto":
            gres = "gpu:1" if self._on_gpus else None
        asked = {
            "job_name": "ban",
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "gres": gres,
            "cpus_per_task": options.cpus,
            "mem": f"{round(options.memory_gb * 1024)}MB" if options.memory_gb else None,
            "time": self._minutes(),
            "signal_delay_s": round(options.checkpoint_minutes * 60),
            "array_parallelism": options.parallel,
            "srun_args": [f"--cpus-per-task={options.cpus}"],  # since SLURM 22.05, srun does not inherit it from sbatch
            "setup": [*options.setup, f'export PYTHONPATH={shlex.quote(str(frozen))}"${{PYTHONPATH:+:$PYTHONPATH}}"'],
            "stderr_to_stdout": True,
        }
        executor.update_parameters(**{key: value for key, value in asked.items() if value is not None})
        return executor

    # The jobs from outside

    def _follow(self, missing: Sequence[Stage], jobs: Mapping[str, str], report: Report, signals: Signals) -> Failures:
        """Reports the jobs' notes until every job has ended."""
        unfinished, failures = {stage.signature for stage in missing}, Failures()
        alive, asked, gone = set(jobs.values()), time.monotonic(), set[str]()
        while unfinished:
            signals.check()
            ended = set[str]()
            if time.monotonic() - asked >= QUEUE_SECONDS:
                alive, asked = set(_states(alive)), time.monotonic()
                lost = {name for name in unfinished if jobs[name] not in alive}
                ended, gone = gone & lost, lost  # missing twice, because a shared file system may show a result late
            for signature in list(unfinished):
                if self.journal.store.has(signature):
                    result = self.journal.store.result(signature)
                    report(Finished(signature, outcome(result)))
                elif signature in ended:
                    failures[signature] = self._why(signature, jobs[signature])
                    report(Failed(signature, failures[signature]))
                else:
                    self._report_progress(signature, report)
                    continue
                unfinished.remove(signature)
            time.sleep(POLL_SECONDS)
        return failures

    def _report_progress(self, signature: str, report: Report) -> None:
        note = self.journal.note(signature)
        if note is not None and note.state == "running":
            report(Running(signature, note.at, note.detail, f"{note.where} of {note.host}"))

    def _why(self, signature: str, job: str) -> str:
        note = self.journal.note(signature)
        if note is not None and note.state == "failed":
            return note.detail
        if note is not None and note.state == "waiting":
            self.journal.remove(signature)
            return f"its SLURM job {job} never started: the job of a teacher failed, or it was cancelled"
        return f"its SLURM job {job} ended without a result, see slurm/{job}_0_log.out in the outputs"


def cancel_and_wait(jobs: Mapping[str, str], journal: Journal) -> None:
    """Cancels the jobs, which then save checkpoints; SLURM usually gives them half a minute.

    `jobs` maps signatures to jobs. The notes of jobs that never started are removed.
    """
    if not jobs:
        return
    console.print("Cancelling the jobs; running ones save a checkpoint.")
    deadline, left, requeued = time.monotonic() + CANCEL_SECONDS, set(jobs.values()), set[str]()
    cancel(left)
    while left and time.monotonic() < deadline:
        time.sleep(1)
        states = _states(left)
        left &= set(states)
        requeued |= {job for job in left if states[job] == "PENDING"}  # at the moment of cancelling
        cancel(requeued & left)
    if left:
        console.print(
            f"Still in the queue: run `scancel {' '.join(sorted(left))}` if `squeue --me` keeps showing them."
        )
    for signature, job in jobs.items():
        if job not in left and (note := journal.note(signature)) and note.state == "waiting":
            journal.remove(signature)


def _states(before: Iterable[str]) -> dict[str, str]:
    """Job → state of queued and running jobs; the jobs of `before` where SLURM does not answer."""
    try:
        return queue()
    except UserError as error:
        console.print(str(error))
        return dict.fromkeys(before, "?")


@dataclass(frozen=True)
class Task:
    """The work of a job. submitit pickles it, and calls `checkpoint` for the work of the requeued job."""

    stage: Stage
    machine: Machine
    frozen: Path

    def __call__(self) -> None:
        """Trains the stage until it is finished or SLURM ends the job."""
        requeue: Any = signal.getsignal(PREEMPTION)  # submitit's
        signals = Signals()

        def note(number: int, frame: FrameType | None) -> None:
            """SLURM sends several signals, and decides how long it waits."""
            signals.number = PREEMPTION if PREEMPTION in (number, signals.number) else number

        for number in (PREEMPTION, signal.SIGTERM):
            signal.signal(number, note)
        journal, job = Journal(Store(self.machine.outputs)), submitit.JobEnvironment().job_id
        noted = JournalReport(journal, self.stage, f"job {job}", self.machine.log_seconds, _ignore, job)
        try:
            with report_failures(noted, self.stage):
                if snapshot.installed_differs(self.frozen):
                    noted.log(
                        f"ban has changed since the job was submitted; this runs the submitted code in {self.frozen}"
                    )
                device = Device.of(self.machine)
                noted.device = f"{device.name}, job {job}"
                run(self.stage, Host(self.machine, device, journal.store), noted, signals)
        except Interrupted as stop:
            while stop.signal_number != PREEMPTION and signals.number != PREEMPTION:
                signal.pause()  # SLURM kills the job, or requeues it after a preemption: a job that exits has failed
            journal.write(Note.by_this_process(self.stage, "waiting", job=job))
            requeue(PREEMPTION, None)  # ends the process

    def checkpoint(self) -> DelayedSubmission:
        """The same work: it resumes from the store's checkpoint."""
        return DelayedSubmission(self)


def _ignore(event: Event) -> None:
    """A job reports to notes and log only."""


def _ready(stages: Iterable[Stage], jobs: Mapping[str, str]) -> dict[frozenset[str], list[Stage]]:
    """The stages whose missing teachers all have jobs, grouped by these jobs: each group can be an array."""
    stages = list(stages)
    unsubmitted = {stage.signature for stage in stages}
    groups: dict[frozenset[str], list[Stage]] = {}
    for stage in stages:
        parents = [parent.signature for parent in stage.parents]
        if not unsubmitted.intersection(parents):
            groups.setdefault(frozenset(jobs[name] for name in parents if name in jobs), []).append(stage)
    return groups
