"""Runs in TensorBoard: a folder of event files for each stage, below one for each lineage."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ban.trackers.run import Outcome, Run


class TensorBoardRun:
    """See `Tracker`. Each process writes all epochs, and tells readers to forget those of earlier processes."""

    def __init__(self, run: Run, outputs: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        name = re.sub(r"[^\w .()+-]", "_", run.tags["ban.label"])[:100]
        folder = outputs / "tensorboard" / run.lineage / f"{name} {run.signature}"
        self.logged = -1
        self._writer: Any = SummaryWriter(str(folder), purge_step=0)
        for title, values in {"settings": run.parameters, "tags": run.tags}.items():
            self._writer.add_text(title, "\n".join(f"    {key}: {value}" for key, value in values.items()), 0)

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """See `Tracker`."""
        for record in records:
            for name, value in record.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(record["epoch"]))
        self._writer.flush()

    def add_files(self, paths: Sequence[Path]) -> None:
        """TensorBoard shows no files."""

    def close(self, outcome: Outcome) -> None:
        """See `Tracker`."""
        self._writer.close()
