"""A real SLURM with one node and pretended GPUs: whatever it does to jobs, they end with the weights of a local run."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import DIGITS, ban, command, environment, plan, start, train_undisturbed, wait_for, weights
from one_node_slurm import INSTALLED, one_node_slurm

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="SLURM's programs are not installed (Debian: slurm-wlm munge)"),
]

SWEEP = ("-m", *DIGITS, "method=ban,cwtm", "recipe.epochs=20")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus=1")
LONG = ("-m", *DIGITS, "method=ban", "recipe.epochs=600", "machine.checkpoint_seconds=0.2")
LONG_PLAN = plan("method=ban", "recipe.epochs=600")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with one_node_slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield environment() | variables


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return train_undisturbed(tmp_path_factory.mktemp("undisturbed"), *LONG[1:])


class Submitted:
    """A command that follows its jobs."""

    def __init__(self, slurm: dict[str, str], folder: Path, *arguments: str) -> None:
        self.slurm, self.folder = slurm, folder
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command(*arguments, *SLURM), cwd=folder, text=True, env=slurm, **pipes)

    def ask(self, *words: str) -> str:
        return subprocess.run(words, env=self.slurm, capture_output=True, text=True, check=True).stdout

    def job_of(self, signature: str) -> str:
        """The number of the job that trains a stage, once it has saved its first checkpoint."""
        deadline = time.monotonic() + 120
        while not list(self.folder.glob(f"outputs/work/{signature}.*/checkpoint*")):
            assert time.monotonic() < deadline and self.process.poll() is None, f"{signature} was not begun"
            time.sleep(0.02)
        (job,) = re.findall(r"job ([\d_]+)", self.log_of(signature))[-1:]
        return job

    def log_of(self, signature: str) -> str:
        log = self.folder / "outputs" / "logs" / f"{signature}.log"
        return log.read_text() if log.exists() else ""

    def begin_requeued_until(self, condition: Callable[[], bool]) -> None:
        """Requeued jobs do not wait out SLURM's two minutes.

        But two seconds: a node refuses a job that begins in the second in which it was told to stop it.
        """
        deadline, seen = time.monotonic() + 240, dict[str, float]()
        while True:
            running, now = self.process.poll() is None, time.monotonic()
            if condition():
                return
            assert running and now < deadline, "".join(self.state())
            for job in re.findall(r"([\d_]+) BeginTime", self.ask("squeue", "-h", "-o", "%i %r")):
                if now - seen.setdefault(job, now) > 2:
                    self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
                    del seen[job]
            time.sleep(0.3)

    def state(self) -> Iterator[str]:
        """The queue, the command's output if it has ended, the jobs' logs and SLURM's own."""
        yield self.ask("squeue")
        if self.process.poll() is not None:
            yield self.process.communicate()[0]
        slurms = Path(self.slurm["SLURM_CONF"]).parent
        for log in sorted([*self.folder.glob("outputs/*/*log*"), *slurms.glob("slurm*.log")]):
            yield f"\n{log.name}:\n{log.read_text()[-3000:]}"

    def end(self, expect: int = 0) -> str:
        """Its output, when it has ended."""
        self.begin_requeued_until(lambda: self.process.poll() is not None)
        output = self.process.communicate()[0]
        assert self.process.returncode == expect, output
        return output

    def weights(self) -> dict[str, bytes]:
        return {stage.signature: weights(self.folder / "outputs", stage.signature) for stage in LONG_PLAN}


def test_a_sweep_trains_each_stage_once_as_a_local_one_does(slurm: dict[str, str], tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    ban(*SWEEP, cwd=here)
    output = Submitted(slurm, there, *SWEEP, "seed=0,1").end()
    # Two teachers and two students of each; with MaxArraySize=3 an array has two jobs at most.
    assert "Submitted 6 jobs, in 3 arrays" in output and "CWTM-1" in output
    same = [folder.name for folder in (here / "outputs" / "stages").iterdir()]
    assert len(same) == 3 and len(list((there / "outputs" / "stages").iterdir())) == 6
    for signature in same:
        assert weights(there / "outputs", signature) == weights(here / "outputs", signature)
    again = Submitted(slurm, there, *SWEEP, "seed=0,1").end()
    assert "6 stages, 6 in the store, 0 to train" in again and "Submitted" not in again


@pytest.mark.long
def test_a_job_that_is_preempted_goes_on(slurm: dict[str, str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    submitted = Submitted(slurm, tmp_path, *LONG)
    for signature in undisturbed:  # the teacher, then the student
        submitted.ask("scancel", "--signal=USR2", submitted.job_of(signature))
        submitted.begin_requeued_until(lambda signature=signature: "resumed at" in submitted.log_of(signature))
    submitted.end()
    assert submitted.weights() == undisturbed
    for signature in undisturbed:
        assert re.search(r"stopped; a checkpoint is saved\n.* resumed at", submitted.log_of(signature))


def test_a_job_that_makes_room_for_an_urgent_one_goes_on(
    slurm: dict[str, str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    submitted = Submitted(slurm, tmp_path, *LONG)
    teacher, _ = undisturbed
    job = submitted.job_of(teacher)
    submitted.ask("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    submitted.begin_requeued_until(lambda: "resumed at" in submitted.log_of(teacher))
    submitted.end()
    assert submitted.weights() == undisturbed
    assert submitted.log_of(teacher).count(f"job {job} of") == 2


@pytest.mark.long
def test_a_job_that_reaches_its_time_limit_goes_on_in_the_next(slurm: dict[str, str], tmp_path: Path) -> None:
    endless = (*DIGITS, "method=labels", "recipe.epochs=1000000", "machine.checkpoint_seconds=1000")
    # The signal comes 18 to 48 seconds after the start: SLURM looks every 30 seconds, and is early rather than late.
    limits = ("hydra.launcher.minutes=2", "hydra.launcher.checkpoint_minutes=1.2")
    submitted = Submitted(slurm, tmp_path, "-m", *endless, *limits)
    (stage,) = plan(*endless)
    submitted.begin_requeued_until(lambda: submitted.log_of(stage.signature).count("resumed at") == 1)
    submitted.begin_requeued_until(lambda: submitted.log_of(stage.signature).count("a checkpoint is saved") == 2)
    submitted.process.send_signal(signal.SIGINT)
    submitted.end(expect=128 + signal.SIGINT)
    assert not submitted.ask("squeue", "-h")  # it was about to requeue itself
    (work,) = tmp_path.glob(f"outputs/work/{stage.signature}.*/")
    limited = losses(work / "curves.jsonl")
    undisturbed = start(tmp_path, *endless, "machine.outputs=undisturbed", "machine.checkpoint_seconds=1", "yes=true")
    try:  # beside the tests of other workers it takes as long as both jobs together
        curves_of_it = f"undisturbed/work/{stage.signature}.*/curves.jsonl"
        wait_for(tmp_path, curves_of_it, lines=3 * len(limited) // 4, seconds=400)
    finally:
        undisturbed.kill()
        undisturbed.communicate()
    (curves,) = tmp_path.glob("undisturbed/work/*/curves.jsonl")
    same = min(len(limited), len(losses(curves)))
    assert limited[:same] == losses(curves)[:same]  # bit for bit, beyond the first job's end


def losses(curves: Path) -> list[float]:
    return [json.loads(line)["label"] for line in curves.read_text().splitlines()]


def test_a_killed_job_fails_only_its_descendants(
    slurm: dict[str, str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    submitted = Submitted(slurm, tmp_path, *LONG, "seed=0,1")
    teacher, student = undisturbed
    submitted.ask("scancel", "--signal=KILL", submitted.job_of(teacher))
    output = submitted.end(expect=1)
    assert "2 stages failed" in output and "ended without a result" in output and "never started" in output
    assert f"{student}.log" in output
    assert len(list((tmp_path / "outputs" / "stages").iterdir())) == 2
    again = Submitted(slurm, tmp_path, *LONG)
    again.end()
    assert again.weights() == undisturbed


def test_ctrl_c_cancels_the_jobs_which_save(
    slurm: dict[str, str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    submitted = Submitted(slurm, tmp_path, *LONG, "machine.checkpoint_seconds=1000")
    teacher, _ = undisturbed
    wait_for(tmp_path, f"outputs/work/{teacher}.*/stage.json")
    time.sleep(0.5)
    submitted.process.send_signal(signal.SIGINT)
    assert "Cancelling the jobs" in submitted.end(expect=128 + signal.SIGINT)
    assert not submitted.ask("squeue", "-h")
    assert "stopped; a checkpoint is saved" in submitted.log_of(teacher)
    again = Submitted(slurm, tmp_path, *LONG)
    again.end()
    assert again.weights() == undisturbed


def test_ctrl_c_may_leave_the_jobs_alone(slurm: dict[str, str], tmp_path: Path) -> None:
    arguments = (*DIGITS, "method=labels", "recipe.epochs=300")
    submitted = Submitted(slurm, tmp_path, "-m", *arguments, "hydra.launcher.on_interrupt=leave")
    wait_for(tmp_path, "outputs/work/*/stage.json")
    submitted.process.send_signal(signal.SIGINT)
    assert "This command leaves 1 job in the queue" in submitted.end(expect=128 + signal.SIGINT)
    wait_for(tmp_path, "outputs/stages/*/result.json")


def test_two_sweeps_submit_what_they_share_once_and_status_sees_both(slurm: dict[str, str], tmp_path: Path) -> None:
    sweeps = [Submitted(slurm, tmp_path, *LONG, f"method={name}") for name in ("ban", "dkpp")]
    status = ""
    while "running" not in status:
        status = subprocess.run(
            command("status"), cwd=tmp_path, env=slurm, capture_output=True, text=True, check=True
        ).stdout
    assert "BAN-1" in status or "DKPP-1" in status
    outputs = "".join(sweep.end() for sweep in sweeps)
    assert outputs.count("Submitted 2 jobs, in 2 arrays") == 1
    assert outputs.count("Submitted 2 jobs, 1 of them by another command") == 1
    assert len(list((tmp_path / "outputs" / "stages").iterdir())) == 3
    after = ban("status", cwd=tmp_path).stdout
    assert "no unfinished stages; 3 finished" in after


def test_a_queued_job_runs_the_code_and_the_settings_of_its_submission(slurm: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text("from ban.models import SmallConv\n\n\nclass Mine(SmallConv):\n    pass\n")
    slurm = slurm | {"PYTHONPATH": f"{tmp_path}:{slurm.get('PYTHONPATH', '')}"}
    arguments = ("-m", *DIGITS, "method=labels", "model._target_=mine.Mine", "hydra.launcher.detach=true")
    blocker = subprocess.run(
        ["sbatch", "--parsable", "--exclusive", "--wrap", "sleep 600"],
        env=slurm,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    ).stdout.strip()
    submitted = Submitted(slurm, tmp_path, *arguments)
    assert "ban status" in submitted.end()
    own.write_text("this is not Python\n")
    submitted.ask("scancel", blocker)
    wait_for(tmp_path, "outputs/stages/*/result.json")


def test_the_doctor_tries_the_locks_between_the_tasks_of_an_srun(slurm: dict[str, str], tmp_path: Path) -> None:
    srun = ["srun", "-n2", *command("doctor", *DIGITS)]
    found = subprocess.run(srun, cwd=tmp_path, env=slurm, capture_output=True, text=True, check=True).stdout
    assert "work between processes, and with" in found and "partition main, with GPUs, no time limit" in found
    assert not list(tmp_path.glob("outputs/work/doctor*"))


def test_what_slurm_does_not_have_is_one_sentence(slurm: dict[str, str], tmp_path: Path) -> None:
    refused = Submitted(slurm, tmp_path, *SWEEP, "hydra.launcher.partition=fast").end(expect=1)
    assert "SLURM has no partition fast: choose hydra.launcher.partition from main, urgent" in refused
    assert not (tmp_path / "outputs").exists()
