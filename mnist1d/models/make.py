"""From a config's model section to a module."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class
from torch import nn

if TYPE_CHECKING:
    from mnist1d.config import Model


def make_model(model: "Model", loaded: Mapping[str, Any] | None = None) -> nn.Module:
    """One member of the architecture that ``model._target_`` names, with PyTorch's global generator.

    Args:
        model: the section.
        loaded: values that take the place of the section's own, where those only name something.

    Raises:
        TypeError: the class does not take the keys of its YAML file; the message names both.
    """
    cls = get_class(model.target)
    try:
        return cls(**{**model.options, **(loaded or {})})
    except TypeError as error:
        raise TypeError(f"model={model.name}: {model.target} cannot be built from its keys: {error}") from error
