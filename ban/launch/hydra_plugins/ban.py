"""The namespace package in which Hydra looks for plugins. Their classes must be defined here."""

from ban.launch.launchers import LocalLauncher as _LocalLauncher
from ban.launch.launchers import SlurmLauncher as _SlurmLauncher
from ban.settings.sweeps import UnionSweeper as _UnionSweeper


class LocalLauncher(_LocalLauncher):
    """`hydra/launcher=local`."""


class SlurmLauncher(_SlurmLauncher):
    """`hydra/launcher=slurm`."""


class UnionSweeper(_UnionSweeper):
    """`hydra/sweeper=union`."""
