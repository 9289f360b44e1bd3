"""Sweeps that compete for the same stages while whatever runs is killed at random: `make test-long`."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers import DIGITS, ban, start, weights

from ban.launch.journal import Journal
from ban.store.store import Store

pytestmark = pytest.mark.long

OPTIONS = ("recipe.epochs=200", "machine.checkpoint_seconds=0.05")
SWEEPS = [("method=ban,dkpp", "seed=0,1"), ("method=ban,cwtm", "seed=1,2")]
"""Three teachers and seven students, of which they share a teacher and a student."""
ROUNDS = 20


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    for sweep in SWEEPS:
        ban("-m", *DIGITS, *OPTIONS, *sweep, cwd=folder)
    store = Store(folder / "outputs")
    assert len(store.finished()) == 10
    return {signature: weights(store.root, signature) for signature in store.finished()}


def kill_something(outputs: Path, sweeps: list[subprocess.Popen[str]], choose: random.Random) -> str:
    """One of the sweeps, or one of the stages that run; what it was."""
    kind, deadline = choose.choice(["sweep", "stage"]), time.monotonic() + 60
    while time.monotonic() < deadline:
        victims = [sweep.pid for sweep in sweeps if sweep.poll() is None]
        if not victims:
            break
        victims = training(outputs) if kind == "stage" else victims
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(choose.choice(victims), signal.SIGKILL)
                return kind
        time.sleep(0.01)
    return "nothing"


def training(outputs: Path) -> list[int]:
    """The processes of the stages that are being trained."""
    journal = Journal(Store(outputs))
    notes = [note for note in journal.notes() if note.state == "running" and journal.store.is_claimed(note.signature)]
    return [note.process for note in notes]


def test_whatever_is_killed_each_stage_is_published_once(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    killed: Counter[str] = Counter()
    for seed in range(ROUNDS):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        killed.update(check_round(seed, undisturbed, folder))
        print(f"round {seed + 1} of {ROUNDS}; killed so far: {dict(killed)}")  # with -s
    assert min(killed["sweep"], killed["stage"]) >= ROUNDS // 2, "too little was killed to show anything"


def check_round(seed: int, undisturbed: dict[str, bytes], tmp_path: Path) -> list[str]:
    """Kills sweeps and stages at random, then lets both sweeps end. Returns what was killed."""
    choose, outputs, killed = random.Random(seed), tmp_path / "outputs", list[str]()
    for _ in range(2):
        sweeps = [start(tmp_path, "-m", *DIGITS, *OPTIONS, *sweep) for sweep in SWEEPS]
        for _ in range(choose.randrange(1, 4)):
            time.sleep(choose.uniform(0.5, 5))
            killed.append(kill_something(outputs, sweeps, choose))
        for sweep in sweeps:  # one that was killed has ended; another may have lost a stage, and has done the rest
            sweep.communicate(timeout=600)
    for sweep in SWEEPS:
        ban("-m", *DIGITS, *OPTIONS, *sweep, cwd=tmp_path)
    store = Store(outputs)
    assert {signature: weights(outputs, signature) for signature in store.finished()} == undisturbed
    ban("stages", "verify", cwd=tmp_path)
    assert not store.unfinished()
    for signature in undisturbed:
        published = Journal(Store(outputs)).log(signature).read_text().count(" test error")
        assert published <= 1  # 0: killed between publishing and writing its line
    return killed
