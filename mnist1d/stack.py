"""N runs of one architecture as one batched module.

A member is an ordinary `nn.Module` for one run. `StackedModel` holds the parameters of N members as leaves
``[N, *shape]`` and computes all of them in one forward pass: with the architecture's own `forward_stacked`
where it has one (a hand-batched twin), else with `torch.func.vmap` over the member's plain `forward`.
Members never mix: every operation is batched over the leading axis, so a member's numbers, its gradient and
even its NaNs stay its own.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mnist1d.models.dropout import Dropout

T = TypeVar("T")

STREAMS = ("batches", "samples", "augmentation", "noise", "masks", "weights", "redrawn", "dropout")
"""What a member draws for beside its initial weights; each has a generator of its own."""


def build_member(make: Callable[[], T], seed: int) -> T:
    """What `make` draws after `torch.manual_seed(seed)`: a member, or its weights; the global state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def member_generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one member for one of `STREAMS`, independent of the other streams and seeds."""
    state = np.random.SeedSequence([seed, STREAMS.index(stream)]).generate_state(1, np.uint64)[0]
    # 63 bits: torch takes the seed as a signed integer
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


class StackedModel(nn.Module):
    """Members ``[m_0, …, m_{N-1}]`` of one architecture as one module.

    Args:
        members: modules of the same class and shapes; they are copied, not kept.

    Raises:
        RuntimeError: from torch, if the members' shapes differ.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.size = len(members)
        # in a tuple, so that the template's parameters are not this module's parameters
        self._template = (members[0],)
        params, buffers = stack_module_state(list(members))
        self._param_names, self._buffer_names = list(params), list(buffers)
        for name, value in params.items():
            self.register_parameter(_flat(name), nn.Parameter(value.detach()))
        for name, value in buffers.items():
            self.register_buffer(_flat(name), value)

    @property
    def template(self) -> nn.Module:
        """A plain module of the members' architecture; its own weights mean nothing."""
        return self._template[0]

    @property
    def params(self) -> dict[str, Tensor]:
        """Leaves ``[N, *shape]`` under the plain module's own names."""
        return {name: getattr(self, _flat(name)) for name in self._param_names}

    @property
    def stacked_buffers(self) -> dict[str, Tensor]:
        """Buffers ``[N, *shape]`` under the plain module's own names."""
        return {name: self.get_buffer(_flat(name)) for name in self._buffer_names}

    @property
    def generators(self) -> list[torch.Generator]:
        """What the members draw from while they are trained; none where nothing is drawn."""
        dropout = getattr(self.template, "dropout", None)
        return list(dropout.generators) if isinstance(dropout, Dropout) else []

    def draw_from(self, generators: Sequence[torch.Generator]) -> None:
        """Give every member, if it has dropout, a generator of its own, on the device of its parameters."""
        dropout = getattr(self.template, "dropout", None)
        if isinstance(dropout, Dropout) and dropout.share:
            dropout.generators = list(generators)

    def train(self, mode: bool = True) -> "StackedModel":
        """Training or evaluation mode, for the members as well."""
        self.template.train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, batch, num_classes]`` for inputs ``[N, batch, length]``; row n goes to member n."""
        template = self.template
        twin = getattr(type(template), "forward_stacked", None)
        if twin is not None:
            logits: Tensor = twin(template, self.params, x)
            return logits

        def one(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(template, (params, buffers), (x,))

        return vmap(one)(self.params, self.stacked_buffers, x)

    def member_state(self, index: int) -> dict[str, Tensor]:
        """`state_dict` of one member, copied to the CPU: loads into the plain module as it is."""
        state = {**self.params, **self.stacked_buffers}
        return {name: state[name][index].detach().cpu().clone() for name in self.template.state_dict()}


def _flat(name: str) -> str:
    """Submodule paths as plain attribute names: torch refuses dots in parameter names."""
    return name.replace(".", "/")
