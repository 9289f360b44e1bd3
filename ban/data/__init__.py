"""On which data. A data set is a function that returns `Images` or a `Text` on a device."""

from ban.data.cifar import cifar10, cifar100
from ban.data.digits import digits
from ban.data.images import Augmentation, Images
from ban.data.words import Text, ptb, text

__all__ = ["Augmentation", "Images", "Text", "cifar10", "cifar100", "digits", "ptb", "text"]
