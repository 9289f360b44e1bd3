"""On which data. A data set is a function that returns `Images`, a `Table` or a `Text` on a device."""

from ban.data.cifar import cifar10, cifar100
from ban.data.embedded import breast_cancer, digits, digits_features, wine
from ban.data.images import Augmentation, Images
from ban.data.munge import Munge
from ban.data.tables import Table
from ban.data.words import Text, ptb, text

__all__ = [
    "Augmentation",
    "Images",
    "Munge",
    "Table",
    "Text",
    "breast_cancer",
    "cifar10",
    "cifar100",
    "digits",
    "digits_features",
    "ptb",
    "text",
    "wine",
]
