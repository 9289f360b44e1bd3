"""Loss terms: a method's loss is their weighted sum. Each is a thin module over a function of `ban.losses`."""

from ban.terms.features import Flow, Hint
from ban.terms.labels import ConfidenceWeightedLabel, Label, SmoothedLabel, VirtualTeacher
from ban.terms.outputs import (
    Consistency,
    Correlations,
    DarkKnowledge,
    DecoupledProbabilities,
    Logits,
    PermutedProbabilities,
    Probabilities,
    TopScoreDifference,
)

__all__ = [
    "ConfidenceWeightedLabel",
    "Consistency",
    "Correlations",
    "DarkKnowledge",
    "DecoupledProbabilities",
    "Flow",
    "Hint",
    "Label",
    "Logits",
    "PermutedProbabilities",
    "Probabilities",
    "SmoothedLabel",
    "TopScoreDifference",
    "VirtualTeacher",
]
