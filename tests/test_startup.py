"""What a command need not do: load torch for what is stored, or find again what an earlier command has found."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import DIGITS, Say, environment, files, plan

from ban.errors import UserError
from ban.launch import server
from ban.launch.launchers import LocalLauncher
from ban.plan.stage import Stage
from ban.report.statistics import clusters
from ban.settings import sweeps
from ban.settings.compose import compose_settings
from ban.store import remembered
from ban.store.remembered import folder, key, memory
from ban.training import costs, rehearsal, timing

SHORT = (*DIGITS, "recipe.epochs=2")
SWEEP = ("-m", *SHORT, "seed=0,1", "generations=0")
LOADED = "import sys; from ban.__main__ import main; main(); print(*({'torch', 'pandas', 'sklearn'} & {*sys.modules}))"


def forget() -> None:
    """What this process knows, so that only the files are left."""
    costs._REHEARSED.clear()
    remembered._opened.cache_clear()


@pytest.mark.parametrize("words", [SHORT, SWEEP])
def test_a_table_of_stored_stages_is_shown_without_torch(words: tuple[str, ...], say: Say, tmp_path: Path) -> None:
    say(*words)
    shown = say(*words)
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    *lines, modules = done.stdout.splitlines()
    assert "0 to train" in shown and lines == shown.splitlines()
    assert not modules


def test_a_wrong_setting_is_refused_though_its_stage_is_stored(say: Say) -> None:
    """2.0 is 2 in signatures, but no number of classes, layers or seeds."""
    say(*SHORT, "method=labels", "model.width=8")
    (stage,) = plan("recipe.epochs=2", "method=labels", "model.width=8")
    (same,) = plan("recipe.epochs=2", "method=labels", "model.width=8.0")
    assert stage.signature == same.signature
    with pytest.raises(SystemExit, match=r"model.width is 8.0; it must be an? (valid )?integer"):
        say(*SHORT, "method=labels", "model.width=8.0")


# Memory


def test_facts_are_remembered_for_the_same_code_only(monkeypatch: pytest.MonkeyPatch) -> None:
    memory("facts").add({key("a"): [1, 2.5]})
    forget()
    assert memory("facts").found[key("a")] == [1, 2.5]
    before = key("a")
    monkeypatch.setattr(remembered, "_software", lambda: ["another version"])
    assert key("a") != before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": NaN}', b"\xff"])
def test_a_damaged_file_is_an_absent_one(content: bytes) -> None:
    memory("facts").add({"a": 1})
    (folder() / "facts.json").write_bytes(content)
    forget()
    assert memory("facts").found == {}
    memory("facts").add({"b": 2})
    assert json.loads((folder() / "facts.json").read_text()) == {"b": 2}


def test_a_file_stays_small_and_what_others_wrote_stays_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 3)
    mine, other = remembered.Memory(folder() / "facts.json"), remembered.Memory(folder() / "facts.json")
    assert mine.found == other.found == {}
    other.add({"a": 1})
    mine.add({"b": 2})
    mine.add({"c": 3, "d": 4})
    assert json.loads(mine.path.read_text()) == {"b": 2, "c": 3, "d": 4}
    mine.add({"c": 5})  # which makes it the newest
    other.add({"e": 6, "f": 7})
    assert json.loads(mine.path.read_text()) == {"c": 5, "e": 6, "f": 7}
    assert [path.name for path in folder().iterdir()] == ["facts.json"]


def test_without_a_folder_for_it_nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for home in (f"{tmp_path}/file", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        monkeypatch.setenv("HOME", "also/relative")
        memory("facts").add({"a": 1})
        forget()
        assert memory("facts").found == {}
    assert files(tmp_path) == [tmp_path / "file"]


def test_a_dry_run_is_rehearsed_and_timed_once(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed, timed = list[str](), list[str]()
    run_step, speed = rehearsal.run_step, timing.examples_per_second
    monkeypatch.setattr(rehearsal, "run_step", lambda s, *how: rehearsed.append(s.step_kind) or run_step(s, *how))
    monkeypatch.setattr(timing, "examples_per_second", lambda s, d: timed.append(s.step_kind) or speed(s, d))
    forget()
    first = say(*SHORT, "dry_run=true")
    assert "earlier" not in first and len(rehearsed) == len(timed) == 2
    forget()
    again = say(*SHORT, "dry_run=true")
    assert "timed by an earlier command" in again and len(rehearsed) == len(timed) == 2
    assert again.replace("; timed by an earlier command", "") == first
    forget()
    monkeypatch.setattr(time, "time", lambda: (folder() / "rates.json").stat().st_mtime + 8 * 86400)
    say(*SHORT, "dry_run=true")
    assert len(rehearsed) == 2 and len(timed) == 4


def test_a_refusal_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    (stage,) = plan("method=labels")

    def refuse(*_: object) -> None:
        raise ValueError("does not fit")

    forget()
    with monkeypatch.context() as patch:
        patch.setattr(rehearsal, "run_step", refuse)
        for _ in range(2):
            with pytest.raises(UserError, match="does not fit"):
                costs.rehearse(stage)
    assert costs.remembered(stage, "cpu") is None
    assert costs.rehearse(stage).parameters == 1442
    assert costs.remembered(stage, "cpu") == costs.rehearse(stage)
    assert costs.remembered(stage, "cuda") is None


# Sweeps


@pytest.mark.parametrize(
    ("words", "composed"),
    [
        ((), 1),
        (("teacher.seed=7",), 1),
        (("dataset.split_seed=3",), 1),
        (("+method.terms.teacher.temperature=${seed}",), 4),
        (("dataset.title=Digits ${seed}",), 4),
    ],
)
def test_repetitions_are_what_each_job_would_be_alone(
    words: tuple[str, ...], composed: int, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, got = list[int](), list[object]()
    freeze = sweeps.freeze
    monkeypatch.setattr(sweeps, "freeze", lambda config: frozen.append(config.seed) or freeze(config))
    monkeypatch.setattr("ban.launch.command.execute", lambda jobs, *_: got.extend(jobs))
    seeds = (2, 1, -5, 3)
    say("-m", *SHORT, *words, "seed=2,1,-5,3")
    assert got == [compose_settings([*SHORT, *words, f"seed={seed}"]) for seed in seeds]
    assert len(frozen) == composed


def test_the_later_seeds_of_a_sweep_are_checked_too(say: Say) -> None:
    with pytest.raises(SystemExit, match=r"^ban: seed is 99999999999999999999"):
        say("-m", *SHORT, "seed=0,99999999999999999999")


def test_clusters_are_the_connected_components_of_shared_streams() -> None:
    streams = [{"a"}, {"b"}, {"c"}, {"b", "d"}, set(), {"a", "d"}, {"e"}]
    assert clusters(streams) == [[2], [4], [0, 1, 3, 5], [6]]
    chain = [{index, index + 1} for index in range(5000)]
    assert clusters(chain) == [[*range(5000)]]


# The server


def alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("end", ["refusal", "signal"])
def test_the_server_ends_if_nothing_is_trained(end: str, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = server.start

    def begin(launcher: LocalLauncher, missing: list[Stage]) -> None:
        start(missing)
        started.append(server.forkserver._forkserver._forkserver_pid)  # pyright: ignore
        assert alive(started[0])
        if end == "signal":
            signal.raise_signal(signal.SIGTERM)
        raise UserError("the plan is refused.")

    server.stop()  # an earlier test's
    monkeypatch.setattr(server, "PRELOADED", ())
    monkeypatch.setattr(LocalLauncher, "_prepare", begin)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised:
        say(*SWEEP)
    assert raised.value.code == (143 if end == "signal" else "ban: the plan is refused.")
    assert not alive(started[0]) and signal.getsignal(signal.SIGTERM) == before
