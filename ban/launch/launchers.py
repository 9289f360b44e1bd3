"""Hydra's launchers: a sweep runs as one command, which trains every missing stage once."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ban.settings.checks import validated
from ban.settings.schema import LocalLauncherSettings, Settings, SlurmLauncherSettings
from ban.settings.sweeps import settings_of
from ban.settings.types import Part

LauncherSettings = TypeVar("LauncherSettings", bound=Part)


class _BatchLauncher(Launcher, Generic[LauncherSettings]):
    """Composes the settings of every job, then runs all jobs as one command."""

    schema: ClassVar[type[Part]]

    def __init__(self, _target_: str = "", **options: Any) -> None:
        plain: Any = OmegaConf.to_container(OmegaConf.create(options), resolve=True)
        self.options: LauncherSettings = validated(self.schema, plain, "hydra.launcher")  # pyright: ignore

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs.

        Raises:
            SystemExit: a stage failed. All stages that do not depend on it were trained.
        """
        from ban.launch.command import execute

        execute(settings_of(self.loader, self.config, job_overrides), self._make_executor)
        return []

    @abstractmethod
    def _make_executor(self, settings: Settings) -> Any:
        """The executor, whose module imports torch: not before there is work."""


class LocalLauncher(_BatchLauncher[LocalLauncherSettings]):
    """Trains on this machine, several stages at a time."""

    schema = LocalLauncherSettings

    def _make_executor(self, settings: Settings) -> Any:
        from ban.launch.execute import LocalPool

        return LocalPool(settings, self.options)


class SlurmLauncher(_BatchLauncher[SlurmLauncherSettings]):
    """Submits each missing stage as a SLURM job, and follows the jobs unless `detach` is set."""

    schema = SlurmLauncherSettings

    def _make_executor(self, settings: Settings) -> Any:
        from ban.launch.slurm_executor import Slurm

        return Slurm(settings, self.options)
