"""Runs in Weights & Biases: one for each stage, in a group for each lineage."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ban.trackers.run import Outcome, Run


class WandbRun:
    """See `Tracker`. The run's id is the signature.

    Without a network, each process writes all epochs, and deletes what earlier ones wrote: W&B writes files in large
    blocks, so that a kill loses epochs that were logged.
    """

    def __init__(self, run: Run, outputs: Path) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._wandb: Any = wandb
        mode = None if os.environ.get("WANDB_MODE") else "offline"
        if mode and wandb.login(prompt=False, verify=False):
            mode = "online"
        options = wandb.Settings(
            console="off", disable_git=True, disable_code=True, init_timeout=60, finish_timeout=120
        )
        outputs.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ban"),
            id=run.signature,
            name=run.name,
            group=run.lineage,
            dir=os.environ.get("WANDB_DIR", str(outputs.resolve())),
            config={**run.parameters, **run.tags},
            tags=[f"{name}:{run.tags[f'ban.{name}']}"[:64] for name in ("family", "generation", "seed")],
            mode=mode,  # pyright: ignore[reportArgumentType]
            resume="allow",
            reinit="finish_previous",  # of a stage before, if its run could not be closed
            settings=options,
        )
        self.logged = self._run.starting_step - 1
        if self._run.offline:
            mine = Path(self._run.dir).parent
            for earlier in {*mine.parent.glob(f"offline-run-*-{run.signature}")} - {mine}:
                shutil.rmtree(earlier)

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """See `Tracker`."""
        for record in records:
            self._run.log(dict(record), step=int(record["epoch"]), commit=True)

    def add_files(self, paths: Sequence[Path]) -> None:
        """See `Tracker`."""
        artifact = self._wandb.Artifact(f"stage-{self._run.id}", type="stage")
        for path in paths:  # files of a finished stage do not change, so they are not copied first
            artifact.add_file(str(path.resolve()), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def close(self, outcome: Outcome) -> None:
        """See `Tracker`."""
        if outcome == "stopped":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if outcome == "finished" else 1)
