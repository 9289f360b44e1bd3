"""Teachers: what provides a student's targets."""

from ban.teachers.frozen import Frozen
from ban.teachers.peers import Peers
from ban.teachers.prior import Prior
from ban.teachers.self_ensembling import AverageWeights, EpochAverage, LastBatch, SecondView

__all__ = ["AverageWeights", "EpochAverage", "Frozen", "LastBatch", "Peers", "Prior", "SecondView"]
