"""Trackers: each stage has one run in each, read back through the tracker's own reader, also after `kill -9`."""

import json
import os
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
from helpers import DIGITS, Say, Train, ban, command, curves, environment, files, host, plan, start, wait_for

from ban.errors import Interrupted, UserError
from ban.events import Event, Warned
from ban.plan.identity import description_of
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.store.store import Store
from ban.trackers import tracking
from ban.trackers.run import Outcome, Run
from ban.training.run import run
from ban.training.signals import Signals

EPOCHS = 500
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
    process = start(tmp_path, *LINEAGE, "machine.checkpoint_seconds=0")
    wait_for(tmp_path, f"outputs/work/{student.signature}.*/curves.jsonl", lines=20)  # more than was logged
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
