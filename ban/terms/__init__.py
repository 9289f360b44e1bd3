"""What is matched. A method's loss is the weighted sum of named terms; each is a thin layer over a pure loss."""

from ban.terms.features import Flow, Hint
from ban.terms.labels import ConfidenceWeightedLabel, Label
from ban.terms.outputs import Consistency, Logits, PermutedProbabilities, Probabilities, TopScoreDifference

__all__ = [
    "ConfidenceWeightedLabel",
    "Consistency",
    "Flow",
    "Hint",
    "Label",
    "Logits",
    "PermutedProbabilities",
    "Probabilities",
    "TopScoreDifference",
]
