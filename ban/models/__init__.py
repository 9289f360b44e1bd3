"""Networks. Each maps `[batch, channels, height, width]` to an `Output` with one feature tensor per stage."""

from ban.models.densenet import DenseNet
from ban.models.small_conv import SmallConv
from ban.models.wide_resnet import WideResNet

__all__ = ["DenseNet", "SmallConv", "WideResNet"]
