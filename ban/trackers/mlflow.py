"""Runs in MLflow: one for each stage, below a parent run for each lineage."""

import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from ban.trackers.run import Outcome, Run

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Environment variables, unless they are set. MLflow's own would let a training wait for hours for a dead server."""
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
BATCH = 1000
"""The most metrics, and the tenfold of the most parameters, that MLflow takes in one call."""
PATIENCE = 120.0
"""Seconds to wait for other processes that use the same store."""


class MlflowRun:
    """See `Tracker`. Processes take turns: SQLite has one writer at a time, and the first one creates the tables."""

    def __init__(self, run: Run, outputs: Path) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        address = os.environ.get("MLFLOW_TRACKING_URI")
        path = outputs / "work" / "mlflow.lock"
        lock = FileLock(path, timeout=PATIENCE, fallback_to_soft=False, preserve_lock_file=True)
        self._turn = nullcontext() if address else lock
        self._mlflow: Any = mlflow
        with lock:
            self._client: Any = mlflow.MlflowClient(address or _local(outputs))
            self._experiment = self._experiment_in(None if address else (outputs / "mlflow").resolve().as_uri())
            title = {"ban.signature": f"lineage {run.lineage}", "ban.lineage": run.lineage}
            parent = self._find_or_create(f"lineage {run.lineage}", title)
            if parent.info.status == "RUNNING":
                self._client.set_terminated(parent.info.run_id)
            found = self._find_or_create(run.name, run.tags | {"mlflow.parentRunId": parent.info.run_id})
            self._id, self._finished = found.info.run_id, found.info.status == "FINISHED"
            self.logged = int(found.data.metrics.get("epoch", -1))
            self._add_parameters(run.parameters, found.data.params)
            if found.info.status != "RUNNING" and not self._finished:
                self._client.update_run(self._id, status="RUNNING")

    def _experiment_in(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ban")
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name, artifacts)

    def _find_or_create(self, name: str, tags: Mapping[str, str]) -> Any:
        query = f"tags.`ban.signature` = '{tags['ban.signature']}'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return found[0] if found else self._client.create_run(self._experiment, tags=tags, run_name=name)

    def _add_parameters(self, parameters: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Adds those that the run lacks: MLflow refuses to change one."""
        values = {_name(key): str(value)[:6000] for key, value in parameters.items()}
        lacking = [self._mlflow.entities.Param(key, value) for key, value in values.items() if key not in known]
        for start in range(0, len(lacking), BATCH // 10):
            self._client.log_batch(self._id, params=lacking[start : start + BATCH // 10])

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """See `Tracker`."""
        with self._turn:
            for batch in _batches(records):
                now = int(time.time() * 1000)
                metrics = [
                    self._mlflow.entities.Metric(_name(name), value, now, int(record["epoch"]))
                    for record in batch
                    for name, value in record.items()
                ]
                self._client.log_batch(self._id, metrics)

    def add_files(self, paths: Sequence[Path]) -> None:
        """See `Tracker`."""
        for path in paths:
            self._client.log_artifact(self._id, str(path))

    def close(self, outcome: Outcome) -> None:
        """See `Tracker`."""
        if not self._finished:
            with self._turn:
                self._client.set_terminated(self._id, STATUS[outcome])


def _local(outputs: Path) -> str:
    """The address of the store in the folder of outputs.

    Raises:
        ValueError: the path means another one in an address.
        sqlite3.Error: it cannot be written. MLflow would try for minutes.
    """
    path = str((outputs / "mlflow.db").resolve())
    if re.search("[?#%]", path):
        raise ValueError(f"MLflow cannot use a path with ?, # or %, {path}: set MLFLOW_TRACKING_URI")
    with closing(sqlite3.connect(path)) as database:
        database.execute("begin immediate")
    return f"sqlite:///{path}"


def _name(text: str) -> str:
    """A name that MLflow accepts for parameters and metrics."""
    return re.sub(r"[^\w\-.: ]", "_", text)[:250]


def _batches(records: Sequence[Mapping[str, float]]) -> Iterator[list[Mapping[str, float]]]:
    """Records in groups that fit into one call, so that a kill leaves no half of a record."""
    batch: list[Mapping[str, float]] = []
    for record in records:
        if batch and sum(map(len, [*batch, record])) > BATCH:
            yield batch
            batch = []
        batch.append(record)
    yield batch
