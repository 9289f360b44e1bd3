"""What SLURM may answer, by programs and a queue that pretend to be its; a real one: tests/test_slurm.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import plan

from ban.errors import UserError
from ban.launch import slurm
from ban.launch import slurm_executor as cluster
from ban.launch.journal import Journal, Note
from ban.store.store import Store


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "echo 'sinfo: error: Unknown host' >&2; echo 'sinfo: fatal: gone' >&2; exit 1",
            r"sinfo failed .*\(Unknown host\)",
        ),
        ("echo a warning >&2; echo 'sinfo: error: Invalid user' >&2; exit 1", r"sinfo failed .*\(Invalid user\)"),
        ("echo ' ' >&2; exit 3", r"sinfo failed .*\(status 3\)"),
    ],
)
def test_its_refusals_are_one_sentence(script: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sinfo"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UserError, match=says):
        slurm.partition(None)


class Queue:
    """Jobs in the states that they have at one question after the other."""

    def __init__(self, **states: list[str]) -> None:
        self.states: dict[str, Iterator[str]] = {job: iter(each) for job, each in states.items()}
        self.cancelled: list[list[str]] = []

    def __call__(self) -> dict[str, str]:
        now = {job: next(states, "") for job, states in self.states.items()}
        if "?" in now.values():
            raise UserError("SLURM does not answer.")
        return {job: state for job, state in now.items() if state}

    def cancel(self, jobs: set[str]) -> None:
        self.cancelled.append(sorted(jobs))


@pytest.mark.parametrize(
    ("queue", "cancelled", "left"),
    [
        (Queue(a=["RUNNING"]), [["a"], [], []], False),
        (Queue(a=["RUNNING", "PENDING", "RUNNING"]), [["a"], [], ["a"], ["a"], []], False),  # requeued, and begun again
        (Queue(a=["RUNNING", "?", "RUNNING"]), [["a"], [], [], [], []], False),
        (Queue(a=["RUNNING"] * 1000), [["a"]] + [[]] * 60, True),
    ],
)
def test_a_job_that_comes_back_is_cancelled_again(
    queue: Queue, cancelled: list[list[str]], left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(cluster.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(cluster, "queue", queue)
    monkeypatch.setattr(cluster, "cancel", queue.cancel)
    (stage,) = plan("method=labels")
    journal = Journal(Store(tmp_path))
    journal.write(Note.by_this_process(stage, "waiting", job="a"))
    cluster.cancel_and_wait({stage.signature: "a"}, journal)
    assert queue.cancelled == cancelled
    assert (journal.note(stage.signature) is not None) is left  # so that another command finds the job
