"""Network architectures. Each maps a batch to an `Output` with one feature tensor per stage.

Inputs are images `[batch, channels, height, width]`, rows `[batch, features]` or word indices `[time, batch]`.
"""

from ban.models.conv_large import ConvLarge
from ban.models.densenet import DenseNet
from ban.models.libraries import Timm, Torchvision
from ban.models.lstm import LSTM, CharacterLSTM
from ban.models.mlp import MLP
from ban.models.resnet import DenseShapedResNet, PreActivationResNet, WideResNet
from ban.models.shallow import Shallow
from ban.models.small_conv import SmallConv

__all__ = [
    "LSTM",
    "MLP",
    "CharacterLSTM",
    "ConvLarge",
    "DenseNet",
    "DenseShapedResNet",
    "PreActivationResNet",
    "Shallow",
    "SmallConv",
    "Timm",
    "Torchvision",
    "WideResNet",
]
