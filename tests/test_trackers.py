"""Trackers: each stage has one run in each, read back through the tracker's own reader, also after `kill -9`."""

import json
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import (
    DIGITS,
    Say,
    Train,
    ban,
    command,
    curves,
    environment,
    files,
    host,
    plan,
    quiet,
    start,
    wait_for,
    with_bases,
)

from ban.errors import Interrupted
from ban.events import Event, Warned
from ban.plan.identity import description_of
from ban.plan.lineage import lineage
from ban.settings.compose import CONF, compose_settings
from ban.store.store import Store
from ban.trackers import tracking
from ban.trackers.mlflow import _local
from ban.trackers.run import Outcome, Run
from ban.training.run import run
from ban.training.signals import Signals

EPOCHS = 250
LINEAGE = (*DIGITS, f"recipe.epochs={EPOCHS}", "machine.trackers=[tensorboard,mlflow,wandb]")
SHORT = (*DIGITS, "recipe.epochs=3")

# Readers


def mlflow_runs(outputs: Path, artifacts: bool = False) -> dict[str, dict[str, Any]]:
    """Name → status, tags, parameters, steps and values of each metric, and artifacts, through MLflow's client.

    In another process: the client's libraries warn, and keep connections open.
    """
    script = """if True:
        import json, sys
        from mlflow import MlflowClient
        client, runs = MlflowClient(sys.argv[1]), []
        [experiment] = client.search_experiments(filter_string="name = 'ban'")
        for run in client.search_runs([experiment.experiment_id]):
            metrics = {
                name: sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, name))
                for name in run.data.metrics
            }
            artifacts = [each.path for each in client.list_artifacts(run.info.run_id)]
            runs.append([run.info.run_name, run.info.run_id, run.info.status, run.data.tags, run.data.params, metrics,
                         artifacts])
        print(json.dumps(runs))
    """
    words = [sys.executable, "-W", "ignore", "-c", script, f"sqlite:///{outputs}/mlflow.db"]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert len({each[0] for each in found}) == len(found)
    keys = ("id", "status", "tags", "parameters", "metrics", "artifacts")
    return {name: dict(zip(keys, rest, strict=True)) for name, *rest in found}


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of an offline run: after seven bytes, a log of LevelDB, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wandb_run(outputs: Path, signature: str) -> tuple[Any, dict[int, dict[str, float]]]:
    """The only file of the stage: its record of the run, and step → values."""
    [file] = (outputs / "wandb").glob(f"offline-run-*-{signature}/run-{signature}.wandb")
    records = [*wandb_records(file)]
    [head] = [each.run for each in records if each.HasField("run")]
    steps = [each.history for each in records if each.HasField("history")]
    history = {
        each.step.num: {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in each.item}
        for each in steps
    }
    assert len(history) == len(steps)
    return head, history


def tensorboard_scalars(outputs: Path, signature: str) -> dict[str, list[tuple[int, float]]]:
    """Tag → steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = (outputs / "tensorboard").glob(f"*/*{signature}")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in events.Tags()["scalars"]}


# Real trackers


def logged_by_mlflow(outputs: Path) -> int:
    """The last epoch in the database, which another process writes."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{outputs}/mlflow.db?mode=ro", uri=True)) as database:
        return database.execute("select max(step) from metrics").fetchone()[0] or 0
    return 0


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.long
@pytest.mark.slow
def test_a_lineage_killed_twice_has_one_run_each_without_gap_or_double(tmp_path: Path) -> None:
    outputs, (teacher, student) = tmp_path / "outputs", plan(*LINEAGE)
    process = start(tmp_path, *LINEAGE, "machine.checkpoint_seconds=1000")
    deadline = time.monotonic() + 120
    while (ahead := logged_by_mlflow(outputs)) < 5:  # and no checkpoint: these epochs are trained again
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    kill(process)
    assert not list(outputs.glob("work/*/checkpoint-*"))
    process = start(tmp_path, *LINEAGE, "machine.checkpoint_seconds=0.2")
    wait_for(tmp_path, f"outputs/work/{student.signature}.*/curves.jsonl", lines=5)  # more than was logged
    kill(process)
    done = ban(*LINEAGE, cwd=tmp_path)
    assert "warning" not in done.stdout + done.stderr

    runs = mlflow_runs(outputs)
    parent = runs.pop(f"lineage {teacher.signature}")
    assert 5 <= ahead < EPOCHS and len(runs) == 2
    for stage in (teacher, student):
        expected = curves(outputs, stage.signature)
        [mine] = [each for each in runs.values() if each["tags"]["ban.signature"] == stage.signature]
        assert mine["status"] == "FINISHED" and mine["tags"]["mlflow.parentRunId"] == parent["id"]
        assert mine["tags"]["ban.family"] == stage.family and mine["tags"]["ban.generation"] == f"{stage.generation}"
        assert mine["parameters"]["recipe.optimizer.lr"] == f"{stage.recipe.learning_rate}"
        assert mine["artifacts"] == ["curves.jsonl", "result.json", "stage.json"]
        head, history = wandb_run(outputs, stage.signature)
        assert head.run_group == teacher.signature and f"seed:{stage.seed}" in head.tags
        assert [*history] == [*range(1, EPOCHS + 1)]
        scalars = tensorboard_scalars(outputs, stage.signature)
        for name in {key for record in expected for key in record} - {"seconds", "epoch"}:
            values = [(int(record["epoch"]), record[name]) for record in expected if name in record]
            assert [(step, value) for step, value in mine["metrics"][name]] == values
            assert [(step, history[step][name]) for step, _ in values] == values
            assert scalars[name] == [(step, pytest.approx(value)) for step, value in values]


@pytest.mark.long
def test_a_sweep_logs_from_several_processes_at_once(tmp_path: Path) -> None:
    words = (*SHORT, "method=labels", "seed=0,1,2,3", "machine.trackers=[mlflow]")
    done = ban("-m", *words, "hydra.launcher.stages_per_device=4", cwd=tmp_path)
    assert "warning" not in done.stdout + done.stderr
    runs = [each for name, each in mlflow_runs(tmp_path / "outputs").items() if not name.startswith("lineage")]
    assert sorted(each["tags"]["ban.seed"] for each in runs) == ["0", "1", "2", "3"]
    assert all([step for step, _ in each["metrics"]["rate"]] == [1, 2, 3] for each in runs)


HOSTILE = "../../é $(rm) %20 #; ' a/b?"
TERM = HOSTILE.replace(".", "")
"""torch has no names with dots."""


@pytest.mark.slow
def test_stages_are_imported_once_and_hostile_names_are_text(tmp_path: Path) -> None:
    method = with_bases(CONF / "method" / "labels.yaml")
    method |= {
        "name": "hostile",
        "title": HOSTILE,
        "terms": {TERM: method["terms"]["label"]},
    }
    (tmp_path / "own" / "method").mkdir(parents=True)
    (tmp_path / "own" / "method" / "hostile.yaml").write_text(yaml.safe_dump(method))
    outputs = tmp_path / "outputs $x é"
    settings = compose_settings([*SHORT, "method=hostile", f"machine.outputs='{outputs}'"], tmp_path / "own")
    [stage] = lineage(settings)
    run(stage, host(settings), quiet, Signals())
    before = {path.name for path in tmp_path.iterdir()}
    for _ in range(2):
        words = ("trackers=tensorboard,mlflow,wandb", "machine.track_weights=true", f"machine.outputs='{outputs}'")
        done = ban("track", "import", *words, cwd=tmp_path)
        assert f"1 stage of {outputs} is in tensorboard, mlflow, wandb." in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == before  # nothing beside the folder of outputs
    runs, signature = mlflow_runs(outputs), stage.signature
    runs.pop(f"lineage {signature}")
    [(name, mine)] = runs.items()
    assert name.startswith(HOSTILE) and mine["tags"]["ban.label"] == HOSTILE
    assert "weights.safetensors" in mine["artifacts"]
    assert [step for step, _ in mine["metrics"]["test_error_percent"]] == [3]
    head, history = wandb_run(outputs, signature)
    assert head.display_name.startswith(HOSTILE)
    for names in (mine["metrics"], history[3], tensorboard_scalars(outputs, signature)):
        assert len(names) > 5
    assert [step for step, _ in mine["metrics"]["__é __rm_ _20 __ _ a_b_"]] == [*history] == [1, 2, 3]
    assert [step for step, _ in tensorboard_scalars(outputs, signature)[TERM]] == [1, 2, 3]


@pytest.mark.slow
def test_a_server_that_does_not_answer_costs_one_warning(tmp_path: Path) -> None:
    words = command(*SHORT, "method=labels", "machine.trackers=[mlflow]")
    nowhere = environment(MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=nowhere, check=True)
    assert (done.stdout + done.stderr).count("warning: mlflow failed") == 1
    assert "the training goes on without it" in done.stdout
    assert len(Store(tmp_path / "outputs").finished()) == 1


# Trackers of the test's own


class Fake:
    """A tracker that remembers, across processes' lives as it were, and fails where it is told to."""

    kept: dict[str, list[int]] = {}
    outcomes: list[Outcome] = []
    fails_in: str = ""

    def __init__(self, run: Run, outputs: Path) -> None:
        self.fail("open")
        self.steps = self.kept.setdefault(run.signature, [])
        self.logged = self.steps[-1] if self.steps else -1

    def fail(self, where: str) -> None:
        if where == self.fails_in:
            raise ConnectionError("no\nroute")

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        self.fail("log")
        self.steps += [int(record["epoch"]) for record in records]

    def add_files(self, paths: Sequence[Path]) -> None:
        self.fail("add_files")
        assert all(path.is_file() for path in paths)

    def close(self, outcome: Outcome) -> None:
        self.fail("close")
        self.outcomes.append(outcome)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    kind = type("Remembering", (Fake,), {"kept": {}, "outcomes": []})
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", (f"{__name__}.Remembering", ()))
    monkeypatch.setattr(sys.modules[__name__], "Remembering", kind, raising=False)
    monkeypatch.setattr(tracking, "INTERVAL", 0.0)
    return kind


@pytest.mark.parametrize("where", ["open", "log", "add_files", "close"])
def test_a_tracker_that_fails_does_not_end_the_training(fake: type[Fake], where: str, tmp_path: Path) -> None:
    fake.fails_in = where
    settings = compose_settings([*SHORT, "method=labels", "machine.trackers=[mlflow]", f"machine.outputs={tmp_path}"])
    events: list[Event] = []
    result = run(lineage(settings)[0], host(settings), events.append, Signals())
    assert result["epochs"] == 3
    [warning] = [event.text for event in events if isinstance(event, Warned)]
    assert warning == "warning: mlflow failed (ConnectionError: no route); the training goes on without it"


def test_a_stopped_stage_goes_on_in_its_run(fake: type[Fake], tmp_path: Path) -> None:
    words = [*DIGITS, "method=labels", "recipe.epochs=20", "machine.trackers=[mlflow]", f"machine.outputs={tmp_path}"]
    settings, signals = compose_settings(words), Signals()
    [stage] = lineage(settings)

    def stop(event: Event) -> None:
        if len(fake.kept.get(stage.signature, [])) >= 5:
            signals.number = signal.SIGTERM

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("ban.training.progress.INTERVAL", 0.0)
        run(stage, host(settings), stop, signals)
    steps = fake.kept[stage.signature]
    assert steps == [*range(1, len(steps) + 1)] and 5 <= len(steps) < 20
    run(stage, host(settings), lambda event: None, Signals())
    assert fake.kept[stage.signature] == [*range(1, 21)]
    assert fake.outcomes == ["stopped", "finished"]


def test_weights_from_a_file_have_results_and_no_epochs(fake: type[Fake], train: Train, tmp_path: Path) -> None:
    [teacher] = train("method=labels", "recipe.epochs=3")
    file = tmp_path / "stages" / teacher["signature"] / "weights.safetensors"
    results = train("recipe.epochs=3", f"teacher.weights={file}", "machine.trackers=[mlflow]")
    assert [fake.kept[each["signature"]] for each in results] == [[0], [1, 2, 3]]


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b"])
def test_mlflow_writes_to_no_path_but_its_own(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MLflow cannot use a path with"):
        _local(tmp_path / name)
    assert not files(tmp_path)


def test_mlflow_does_not_wait_for_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.Error):
        _local(tmp_path / "missing")


# Settings


def test_trackers_change_no_signature() -> None:
    without = [stage.signature for stage in plan("method=fitnets", "generations=2")]
    tracked = ("machine.trackers=[tensorboard,mlflow,wandb]", "machine.track_weights=true")
    assert [stage.signature for stage in plan("method=fitnets", "generations=2", *tracked)] == without


def test_every_stage_of_a_lineage_has_the_same_origin() -> None:
    stages = plan("method=fitnets", "generations=2")
    assert {stage.origin.signature for stage in stages} == {stages[0].signature}


def test_settings_are_flat() -> None:
    [stage] = plan("method=labels")
    parameters = Run.of(description_of(stage), stage.signature).parameters
    assert parameters["models.name"] == "small_conv"
    assert parameters["recipe.optimizer._target_"] == "torch.optim.SGD"
    assert parameters["dataset.train_size"] == 100


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_missing_package_is_refused_before_anything_is_written(
    name: str, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_package_that_is_missing").mkdir()  # a folder in the working folder is no package
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(tracking.TRACKERS, name, ("", ("a_package_that_is_missing",)))
    for words in ((*SHORT,), (*SHORT, "dry_run=true"), ("track", "import")):
        with pytest.raises(SystemExit) as refused:
            say(*words, f"machine.trackers=[{name}]")
        needed = f"machine.trackers={name} needs the package a_package_that_is_missing"
        assert str(refused.value) == f"ban: {needed}: pip install 'born-again[{name}]'."
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([*SHORT, "machine.trackers=[foo]"], "machine.trackers.0 is foo; it must be tensorboard, mlflow or wandb."),
        ([*SHORT, "machine.trackers=mlflow"], "machine.trackers is mlflow; it must be a list."),
        (
            [*SHORT, "machine.tensorboard=true"],
            "there is no setting 'machine.tensorboard': did you mean 'machine.trackers'",
        ),
        (["track"], "use: ban track import"),
        (["track", "import"], "ban track import needs the name of a tracker: trackers=tensorboard, mlflow or wandb."),
        (["track", "import", "trackers=foo"], "machine.trackers.0 is foo; it must be tensorboard, mlflow or wandb."),
        (["track", "import", "x", "trackers=wandb"], "no finished stage in outputs matches: `ban stages` lists them."),
    ],
)
def test_bad_input_is_one_sentence(words: Sequence[str], answer: str, say: Say, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refused:
        say(*words)
    assert answer in str(refused.value)
    assert not files(tmp_path)


def test_a_plain_training_imports_no_tracker(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv[0] = 'ban'; from ban.cli import main; main();"
        "assert not {'mlflow', 'wandb', 'tensorboard', 'sqlalchemy', 'torch.utils.tensorboard'} & {*sys.modules}"
    )
    words = [sys.executable, "-c", script, *SHORT, "method=labels"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False)
    assert not done.returncode, done.stderr
