"""The paper's architectures, each an ordinary module for one member of a stack."""

from .cnn import CNN
from .encoder import Encoder, make_encoder
from .gru import GRU
from .logistic import Logistic
from .mlp import MLP

__all__ = ["CNN", "GRU", "MLP", "Encoder", "Logistic", "make_encoder"]
