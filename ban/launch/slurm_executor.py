"""Stages as SLURM jobs: submitit submits and requeues them, the store and the notes tell how far they are."""

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
from ban.events import Event, Report
from ban.launch import snapshot as code
from ban.launch.journal import Journal, JournalReport, Note, report_failures
from ban.launch.pool import Failures
from ban.launch.slurm import max_array_size, partition, queue
from ban.plan.stage import Stage
from ban.settings import schema
from ban.settings.schema import Settings, SlurmLauncherSettings
from ban.training.machine import Machine, Signals
from ban.training.stage import outcome, run

PREEMPTION = signal.SIGUSR2
"""What submitit asks SLURM to send before the time limit, and clusters send before they pre-empt."""
POLL_SECONDS = 2.0
QUEUE_SECONDS = 10.0
"""Between questions to SLURM, which many people ask."""
CANCEL_SECONDS = 60.0
"""How long cancelled jobs are waited for."""


class Slurm:
    """Submits every missing stage as a job of its own, once, and follows them. An executor of `ban.launch.execute`."""

    def __init__(self, options: SlurmLauncherSettings) -> None:
        self.options = options

    def prepare(self, missing: Sequence[Stage], settings: Settings) -> str:
        """See `Executor`."""
        self.partition = partition(self.options.partition)
        if not 0 < self.options.checkpoint_minutes < self._minutes():
            raise UserError(
                f"hydra.launcher.checkpoint_minutes is {self.options.checkpoint_minutes}; it must be above 0 and below "
                f"the {self._minutes()} minutes of a job."
            )
        machine = settings.machine
        self.machine = replace(
            machine,
            outputs=machine.outputs.resolve(),
            data_dir=machine.data_dir.resolve(),
            threads=machine.threads or self.options.cpus,
        )
        self.journal = Journal(self.machine.outputs)
        return f"the SLURM partition {self.partition.name}, one job each"

    def train(self, missing: Sequence[Stage], report: Report) -> Failures | None:
        """See `Executor`."""
        if not missing:
            return {}
        mine: dict[str, str] = {}
        with Signals().caught() as signals:
            try:
                jobs = self._submit(missing, mine)
                if self.options.detach:
                    console.print(f"`ban status machine.outputs={self.journal.store.root}` tells how far they are.")
                    return None
                return self._follow(missing, jobs, report, signals)
            except (Interrupted, UserError):
                if signals.number and self.options.on_interrupt == "cancel":
                    self._cancel(mine)
                elif mine:
                    console.print(
                        f"The {len(mine)} jobs that this command submitted go on; `ban status` tells how far."
                    )
                signals.check()  # Ctrl-C in a terminal reaches SLURM's commands too: it is the reason, not their end
                raise

    def _minutes(self) -> int:
        """A job's time limit."""
        return min(self.options.minutes, self.partition.minutes or self.options.minutes)

    # Submission

    def _submit(self, missing: Sequence[Stage], mine: dict[str, str]) -> dict[str, str]:
        """Signature → job, those of this command in `mine` too.

        Two submissions exclude each other, so the later one finds the earlier one's jobs.
        """
        folder = self.journal.store.root / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "submission.lock", fallback_to_soft=False, preserve_lock_file=True):
            frozen = code.freeze(missing, self.journal.store)
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
        here_before = f", {shared} of them by another command" if shared else ""
        console.print(
            f"{len(jobs)} jobs are submitted{here_before}, in {len(numbers)} arrays: {numbers[0]} to {numbers[-1]}."
        )
        return jobs

    def _queued_already(self, missing: Sequence[Stage]) -> dict[str, str]:
        known = {stage.signature: self.journal.note(stage.signature) for stage in missing}
        alive = queue()
        return {name: note.job for name, note in known.items() if note is not None and note.job in alive}

    def _submit_array(
        self, stages: Sequence[Stage], parents: frozenset[str], frozen: Path, mine: dict[str, str]
    ) -> None:
        """One array, or several where SLURM allows no such wide one, that waits for all the parents' jobs."""
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
        # Before Python can listen, the signal would end it. -P: not the code that the working folder holds by then.
        python = f"""sh -c 'trap "" {PREEMPTION.name[3:]}; exec "$0" -P "$@"' {shlex.quote(sys.executable)}"""
        # As often as it takes.
        executor = submitit.SlurmExecutor(folder, max_num_timeout=10**9, python=python)
        gres = options.gres
        if gres == "auto":
            gres = "gpu:1" if self.partition.gpus and self.machine.device != "cpu" else None
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
            "srun_args": [f"--cpus-per-task={options.cpus}"],  # since 22.05 srun does not take it from sbatch
            "setup": [*options.setup, f'export PYTHONPATH={shlex.quote(str(frozen))}"${{PYTHONPATH:+:$PYTHONPATH}}"'],
            "stderr_to_stdout": True,
        }
        executor.update_parameters(**{key: value for key, value in asked.items() if value is not None})
        return executor

    # The jobs from outside

    def _follow(self, missing: Sequence[Stage], jobs: Mapping[str, str], report: Report, signals: Signals) -> Failures:
        """Reports what the notes say until every job has ended."""
        unfinished, failures = {stage.signature: stage for stage in missing}, Failures()
        alive, asked, gone = set(jobs.values()), time.monotonic(), set[str]()
        while unfinished:
            signals.check()
            ended = set[str]()
            if time.monotonic() - asked >= QUEUE_SECONDS:
                alive, asked = set(_states(alive)), time.monotonic()
                lost = {name for name in unfinished if jobs[name] not in alive}
                ended, gone = gone & lost, lost  # twice, because a shared file system may show a result late
            for signature, stage in list(unfinished.items()):
                if self.journal.store.has(signature):
                    result = self.journal.store.result(signature)
                    report(Event(signature, "finished", {"outcome": outcome(stage, result)}))
                elif signature in ended:
                    failures[signature] = self._why(signature, jobs[signature])
                    report(Event(signature, "failed", {"reason": failures[signature]}))
                else:
                    self._tell_progress(signature, report)
                    continue
                del unfinished[signature]
            time.sleep(POLL_SECONDS)
        return failures

    def _tell_progress(self, signature: str, report: Report) -> None:
        note = self.journal.note(signature)
        if note is not None and note.state == "running":
            where = f"{note.where} of {note.host}"
            report(Event(signature, "step", {"at": note.at, "where": where, "detail": note.detail}))

    def _why(self, signature: str, job: str) -> str:
        note = self.journal.note(signature)
        if note is not None and note.state == "failed":
            return note.detail
        if note is not None and note.state == "waiting":
            self.journal.remove(signature)
            return f"its SLURM job {job} was never begun: a teacher's failed, or it was cancelled"
        return f"its SLURM job {job} ended without a result, see slurm/{job}_0_log.out in the outputs"

    def _cancel(self, jobs: Mapping[str, str]) -> None:
        """Cancelled jobs save where they stand; SLURM usually gives them half a minute."""
        if not jobs:
            return
        console.print("Cancelling the jobs; they save where they stand.")
        deadline, left, again = time.monotonic() + CANCEL_SECONDS, set(jobs.values()), set[str]()
        _scancel(left)
        while left and time.monotonic() < deadline:
            time.sleep(1)
            states = _states(left)
            left &= set(states)
            again |= {job for job in left if states[job] == "PENDING"}  # requeued in the moment of its cancelling
            _scancel(again & left)
        if left:
            console.print(f"Not ended yet: `scancel {' '.join(sorted(left))}` if `squeue --me` goes on to show them.")
        for signature, job in jobs.items():
            if job not in left and (note := self.journal.note(signature)) and note.state == "waiting":
                self.journal.remove(signature)


def _scancel(jobs: Iterable[str]) -> None:
    if jobs := list(jobs):
        subprocess.run(["scancel", *jobs], check=False, start_new_session=True)


def _states(before: Iterable[str]) -> dict[str, str]:
    """Job → state, of those that wait or run; those of before where SLURM does not answer for once."""
    try:
        return queue()
    except UserError as error:
        console.print(str(error))
        return dict.fromkeys(before, "?")


@dataclass(frozen=True)
class Task:
    """What a job does. submitit pickles it, and calls `checkpoint` for what a requeued job shall do."""

    stage: Stage
    machine: schema.Machine
    frozen: Path

    def __call__(self) -> None:
        """Trains the stage until it is done, or until SLURM wants the node back."""
        requeue: Any = signal.getsignal(PREEMPTION)  # submitit's
        signals = Signals()

        def note(number: int, frame: FrameType | None) -> None:
            """SLURM sends several, and decides itself how long it waits for the end."""
            signals.number = PREEMPTION if PREEMPTION in (number, signals.number) else number

        for number in (PREEMPTION, signal.SIGTERM):
            signal.signal(number, note)
        journal, job = Journal(self.machine.outputs), submitit.JobEnvironment().job_id
        follow = JournalReport(journal, self.stage, f"job {job}", self.machine.log_seconds, _nobody, job)
        try:
            with report_failures(follow, self.stage):
                if code.installed_differs(self.frozen):
                    follow.tell(f"another version is installed by now: this runs what was submitted, {self.frozen}")
                machine = Machine.of(self.machine)
                follow.where = f"{machine.device}, job {job}"
                run(self.stage, machine, follow, signals)
        except Interrupted as stop:
            while stop.signal_number != PREEMPTION and signals.number != PREEMPTION:
                signal.pause()  # SLURM kills and, if it pre-empts, requeues: a job that ends by itself has failed
            journal.write(Note.by_this_process(self.stage, "waiting", job=job))
            requeue(PREEMPTION, None)  # ends the process

    def checkpoint(self) -> DelayedSubmission:
        """The same again: it goes on from the store's checkpoint."""
        return DelayedSubmission(self)


def _nobody(event: Event) -> None:
    """The other end of a job's events: notes and log are all."""


def _ready(stages: Iterable[Stage], jobs: Mapping[str, str]) -> dict[frozenset[str], list[Stage]]:
    """The stages whose missing teachers all have jobs, by these jobs: what can be one array."""
    stages = list(stages)
    unsubmitted = {stage.signature for stage in stages}
    groups: dict[frozenset[str], list[Stage]] = {}
    for stage in stages:
        parents = [parent.signature for parent in stage.parents]
        if not unsubmitted.intersection(parents):
            groups.setdefault(frozenset(jobs[name] for name in parents if name in jobs), []).append(stage)
    return groups
