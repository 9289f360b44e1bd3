"""Sweeps as Hydra sees them: the union of all jobs' stages, each missing one trained once."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ban.launch.slurm import Options
from ban.settings import jobs


class LocalLauncher(Launcher):
    """Composes every job, then does them all as one command."""

    def __init__(
        self,
        devices: int | str | Sequence[int | str] = "auto",
        stages_per_device: int | None = None,
        stall_timeout: float | None = None,
    ) -> None:
        self.devices, self.stages_per_device, self.stall_timeout = devices, stages_per_device, stall_timeout

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs.

        Raises:
            SystemExit: something failed; the others were run all the same.
        """
        from ban.launch.execute import Processes, execute  # torch: not before there is work

        engine = Processes(self.devices, self.stages_per_device, self.stall_timeout)
        execute(jobs.compose(self.loader, self.config, job_overrides), engine)
        return []


class SlurmLauncher(Launcher):
    """Composes every job, then submits the missing stages of all."""

    def __init__(self, **options: Any) -> None:
        self.options = Options(**OmegaConf.to_container(OmegaConf.create(options), resolve=True))  # pyright: ignore

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submits, and follows the jobs unless `detach`.

        Raises:
            SystemExit: something failed; the others were run all the same.
        """
        from ban.launch.execute import execute
        from ban.launch.slurm_executor import Cluster  # torch: not before there is work

        execute(jobs.compose(self.loader, self.config, job_overrides), Cluster(self.options))
        return []
