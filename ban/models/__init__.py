"""Networks. Each maps a batch to an `Output` with one feature tensor per stage.

Images are `[batch, channels, height, width]`, word numbers `[time, batch]`.
"""

from ban.models.conv_large import ConvLarge
from ban.models.densenet import DenseNet
from ban.models.lstm import LSTM, CharacterLSTM
from ban.models.shallow import Shallow
from ban.models.small_conv import SmallConv
from ban.models.wide_resnet import WideResNet

__all__ = ["LSTM", "CharacterLSTM", "ConvLarge", "DenseNet", "Shallow", "SmallConv", "WideResNet"]
