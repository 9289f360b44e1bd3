"""Network architectures. Each maps a batch to an `Output` with one feature tensor per stage.

Inputs are images `[batch, channels, height, width]`, rows `[batch, features]` or word indices `[time, batch]`.
"""

from ban.models.cifar_resnet import CifarResNet
from ban.models.conv_large import ConvLarge
from ban.models.densenet import DenseNet
from ban.models.libraries import Timm, Torchvision
from ban.models.lstm import LSTM, CharacterLSTM
from ban.models.mlp import MLP
from ban.models.mobilenet import MobileNetV2
from ban.models.resnet import DenseShapedResNet, PreActivationResNet, WideResNet
from ban.models.shallow import Shallow
from ban.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from ban.models.small_conv import SmallConv
from ban.models.vgg import VGG

__all__ = [
    "LSTM",
    "MLP",
    "VGG",
    "CharacterLSTM",
    "CifarResNet",
    "ConvLarge",
    "DenseNet",
    "DenseShapedResNet",
    "MobileNetV2",
    "PreActivationResNet",
    "Shallow",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "SmallConv",
    "Timm",
    "Torchvision",
    "WideResNet",
]
