"""A sweep on this machine: the union of all jobs' stages, each missing one trained once."""

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ban.config import settings


class LocalLauncher(Launcher):
    """Composes every job, then does them all as one command."""

    def __init__(self, slots: int | None = None) -> None:
        self.slots = slots

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs.

        Raises:
            SystemExit: something failed; the others were run all the same.
        """
        from ban.launch.command import execute  # torch: not before there is work

        execute(self._compose(job_overrides), in_processes=True, slots=self.slots)
        return []

    def _compose(self, jobs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Each job's settings. Jobs that differ only in their seed are composed once: Hydra takes 0.15 s for one."""
        composed: dict[tuple[str, ...], DictConfig] = {}
        result = []
        for job in jobs:
            seeds = [override for override in job if re.fullmatch(r"seed=-?\d+", override)]
            rest = tuple(override for override in job if override not in seeds)
            if rest not in composed:
                composed[rest] = self.loader.load_sweep_config(self.config, [*rest, *seeds])
            config = deepcopy(composed[rest])
            if seeds:
                config.seed = int(seeds[-1].partition("=")[2])
            result.append(settings(config))
        return result
