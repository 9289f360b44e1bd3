"""A sweep on a SLURM cluster: Hydra's side of it. The jobs are in `ban.launch.cluster`, which loads torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ban.launch import jobs


@dataclass(frozen=True)
class Options:
    """What `conf/hydra/launcher/slurm.yaml` says, where each is explained."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = "auto"
    cpus: int = 4
    memory_gb: float | None = None
    minutes: int = 240
    checkpoint_minutes: float = 2
    parallel: int = 256
    directives: Mapping[str, Any] = field(default_factory=dict)
    setup: Sequence[str] = ()
    detach: bool = False
    on_interrupt: str = "cancel"


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
        from ban.launch.cluster import Cluster  # torch: not before there is work
        from ban.launch.command import execute

        execute(jobs.compose(self.loader, self.config, job_overrides), Cluster(self.options))
        return []
