"""Hydra's launchers: a sweep runs as one command, which trains every missing stage once."""

import signal
from abc import abstractmethod
from collections.abc import Sequence
from types import FrameType
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ban.launch import server
from ban.plan.stage import Stage
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

        execute(settings_of(self.loader, self.config, job_overrides), self._make_executor, self._prepare)
        return []

    def _prepare(self, missing: Sequence[Stage]) -> None:
        """Starts what takes time, before it is checked whether the stages can be trained."""

    @abstractmethod
    def _make_executor(self, settings: Settings) -> Any:
        """The executor, whose module imports torch: not before there is work."""


class LocalLauncher(_BatchLauncher[LocalLauncherSettings]):
    """Trains on this machine, several stages at a time."""

    schema = LocalLauncherSettings

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """See `_BatchLauncher`."""
        default = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
        for number in default:
            signal.signal(number, _end)
        try:
            return super().launch(job_overrides, initial_job_idx)
        except BaseException:  # a refusal, or a signal: the server may still import torch, for seconds
            server.stop()
            raise
        finally:
            for number in default:
                signal.signal(number, signal.SIG_DFL)

    def _prepare(self, missing: Sequence[Stage]) -> None:
        server.start(missing)

    def _make_executor(self, settings: Settings) -> Any:
        from ban.launch.execute import LocalPool

        return LocalPool(settings, self.options)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


class SlurmLauncher(_BatchLauncher[SlurmLauncherSettings]):
    """Submits each missing stage as a SLURM job, and follows the jobs unless `detach` is set."""

    schema = SlurmLauncherSettings

    def _make_executor(self, settings: Settings) -> Any:
        from ban.launch.slurm_executor import Slurm

        return Slurm(settings, self.options)
