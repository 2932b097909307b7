"""The paper's architectures, each an ordinary module for one member of a stack."""

from .cnn import CNN
from .cnn2d import CNN2d
from .encoder import Encoder, make_encoder
from .gru import GRU
from .logistic import Logistic
from .mlp import MLP
from .shallow import Shallow

__all__ = ["CNN", "GRU", "MLP", "CNN2d", "Encoder", "Logistic", "Shallow", "make_encoder"]
