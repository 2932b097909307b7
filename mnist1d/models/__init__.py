"""The paper's architectures and later ones, each an ordinary module for one member of a stack."""

from .attention import Attention
from .cnn import CNN
from .cnn2d import CNN2d
from .dilated import DilatedCNN
from .encoder import Encoder, make_encoder
from .gru import GRU
from .logistic import Logistic
from .mlp import MLP
from .resnet import ResNet
from .shallow import Shallow
from .tcn import TCN

__all__ = [
    "CNN",
    "GRU",
    "MLP",
    "TCN",
    "Attention",
    "CNN2d",
    "DilatedCNN",
    "Encoder",
    "Logistic",
    "ResNet",
    "Shallow",
    "make_encoder",
]
