"""The paper's four architectures, each an ordinary module for one member of a stack."""

from .cnn import CNN
from .gru import GRU
from .logistic import Logistic
from .mlp import MLP

__all__ = ["CNN", "GRU", "MLP", "Logistic"]
