"""Who teaches."""

from ban.teachers.frozen import Frozen
from ban.teachers.itself import AverageWeights, EpochAverage, SecondView
from ban.teachers.peers import Peers

__all__ = ["AverageWeights", "EpochAverage", "Frozen", "Peers", "SecondView"]
