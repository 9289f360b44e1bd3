"""Loss terms: a method's loss is their weighted sum. Each is a thin module over a function of `ban.losses`."""

from ban.terms.contrast import Contrast
from ban.terms.factors import Factors, Paraphrase
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
from ban.terms.relations import Attention, Congruence, Neighbours, Relations, Selectivity, Similarities
from ban.terms.shallow import ShallowClassifiers
from ban.terms.variational import Variational

__all__ = [
    "Attention",
    "ConfidenceWeightedLabel",
    "Congruence",
    "Consistency",
    "Contrast",
    "Correlations",
    "DarkKnowledge",
    "DecoupledProbabilities",
    "Factors",
    "Flow",
    "Hint",
    "Label",
    "Logits",
    "Neighbours",
    "Paraphrase",
    "PermutedProbabilities",
    "Probabilities",
    "Relations",
    "Selectivity",
    "ShallowClassifiers",
    "Similarities",
    "SmoothedLabel",
    "TopScoreDifference",
    "Variational",
    "VirtualTeacher",
]
