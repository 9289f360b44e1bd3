"""What is matched. A method's loss is the weighted sum of named terms; each is a thin layer over a pure loss."""

from ban.terms.labels import ConfidenceWeightedLabel, Label
from ban.terms.outputs import Logits, PermutedProbabilities, Probabilities

__all__ = ["ConfidenceWeightedLabel", "Label", "Logits", "PermutedProbabilities", "Probabilities"]
