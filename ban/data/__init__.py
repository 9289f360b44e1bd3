"""On which data. A data set is a function that returns `Images` on a device."""

from ban.data.cifar import cifar10, cifar100
from ban.data.digits import digits
from ban.data.images import Augmentation, Images

__all__ = ["Augmentation", "Images", "cifar10", "cifar100", "digits"]
