"""On which data. A data set is a function that returns `Images`, a `Table` or a `Text` on a device.

Those are in modules of their own, imported when they are asked for: torchvision and scikit-learn take seconds.
"""

from ban.data.images import Augmentation, Images
from ban.data.munge import Munge
from ban.data.tabular import Table
from ban.data.text import Text

__all__ = ["Augmentation", "Images", "Munge", "Table", "Text"]
