"""From a sweep's overrides to the settings of its jobs."""

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from ban.settings.config import settings


def compose(loader: ConfigLoader, config: DictConfig, jobs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Each job's settings. Jobs that differ only in their seed are composed once: Hydra takes 0.15 s for one."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    result = []
    for job in jobs:
        seeds = [override for override in job if re.fullmatch(r"seed=-?\d+", override)]
        rest = tuple(override for override in job if override not in seeds)
        if rest not in composed:
            composed[rest] = loader.load_sweep_config(config, [*rest, *seeds])
        job_config = deepcopy(composed[rest])
        if seeds:
            job_config.seed = int(seeds[-1].partition("=")[2])
        result.append(settings(job_config))
    return result
