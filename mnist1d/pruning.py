"""Masks of lottery tickets: how much each round removes, which parameters go, and what structure is left.

A network's parameters lie in one row of P numbers, layer by layer: its weights, row by row, then its biases. A mask is
such a row of booleans, True where a parameter is kept; those of N members are ``[N, P]``.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from mnist1d.config.tasks import Lottery

NEIGHBOURS = {"two": 2, "three": 3, "four": 4}
"""Lengths of the runs of kept weights that the paper counts, by the names of their metrics."""


def sparsities(task: Lottery) -> list[float]:
    """Share of the parameters removed in each round, ascending from 0 (linear as in `lottery-tickets.ipynb`)."""
    if task.schedule == "linear":
        return [task.final_sparsity * i / max(task.rounds - 1, 1) for i in range(task.rounds)]
    return [1 - (1 - task.rate) ** i for i in range(task.rounds)]


class Layout:
    """Where every parameter of a network lies in its row.

    Args:
        params: leaves ``[N, *shape]`` by name, in the order of `named_parameters`.
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self.shapes = {name: param.shape[1:] for name, param in params.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    @property
    def first(self) -> str:
        """Name of the first layer's weights."""
        return next(iter(self.shapes))

    def rows(self, params: Mapping[str, Tensor]) -> Tensor:
        """A copy of ``[N, *shape]`` leaves as rows ``[N, P]``."""
        return torch.cat([params[name].detach().flatten(1) for name in self.shapes], 1)

    def parts(self, rows: Tensor) -> dict[str, Tensor]:
        """Inverse of `rows`, as views: ``[…, P]`` to ``[…, *shape]`` by name."""
        pieces = zip(self.shapes.items(), rows.split(self.sizes, -1), strict=True)
        return {name: piece.unflatten(-1, shape) for (name, shape), piece in pieces}

    def layers(self, *, biases: bool) -> list[Tensor]:
        """Places in the row that each layer's parameters have, with or without its biases: ``[n]``, ascending.

        A layer is a module that has parameters of its own.
        """
        places = self.parts(torch.arange(sum(self.sizes)))
        modules = groupby(places, key=lambda name: name.rpartition(".")[0])
        chosen = [[name for name in names if biases or not _is_bias(name)] for _, names in modules]
        return [torch.cat([places[name].flatten() for name in names]) for names in chosen if names]


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2].startswith("bias")


def kept(scores: Tensor, groups: Sequence[Tensor], sparsity: float) -> Tensor:
    """Masks ``[N, P]`` without the int(sparsity · n) lowest of the n scores of each group.

    Args:
        scores: ``[N, P]``; of equal ones any may go.
        groups: places in the row that are ranked against each other; what is in no group stays.
        sparsity: share to remove.
    """
    mask = torch.ones_like(scores, dtype=torch.bool)
    for group in groups:
        # a partial sort, a tenth of the time of a whole one
        lowest = scores[:, group].topk(int(sparsity * len(group)), dim=1, largest=False, sorted=False).indices
        mask.scatter_(1, group[lowest], False)
    return mask


def shuffled(mask: Tensor, groups: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """A mask ``[P]`` permuted within each group, by a CPU generator."""
    mask = mask.clone()
    for group in groups:
        order = torch.randperm(len(group), generator=generator).to(group.device)
        mask[group] = mask[group[order]]
    return mask


def adjacency(mask: Tensor) -> dict[str, float]:
    """How often neighbouring weights of a hidden unit are kept together: its mean over units and positions.

    Of the L - k + 1 positions j of a unit, the share with weights kept at j, …, j + k - 1; at density d, chance is d^k.
    The reference (`lottery-tickets.ipynb`, adjacency) divides by L, and takes the fourth factor of a ticket's four
    from the mask of the random search; neither is done here.

    Args:
        mask: of the first layer, ``[units, L]``, booleans; a k above L is left out.
    """
    return {
        name: float(mask.unfold(1, length, 1).all(-1).double().mean())
        for name, length in NEIGHBOURS.items()
        if length <= mask.shape[1]
    }


def first_mask(weights: Mapping[str, Tensor]) -> Tensor:
    """The mask of a ticket's first layer, ``[units, inputs]``, booleans, from what is kept of its run.

    Args:
        weights: the `state_dict` of `mnist1d.tracking.load_weights`, of a run with task=lottery.

    Raises:
        KeyError: another task's run.
    """
    masks = [value for name, value in weights.items() if name.startswith("mask/")]
    if not masks:
        raise KeyError("these weights have no masks: they are not of a run with task=lottery")
    return masks[0].flatten(1)
