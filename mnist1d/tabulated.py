"""Functions of one number as tables of cubics, and the training of shallow nets through them, differentiable.

A network that serves as an activation function is constant while another one trains with it, so it is evaluated once,
at the nodes of a grid, and looked up from then on; the gradient of a training by its table goes back through it once.
Between nodes lies the cubic that meets value and slope at both; beyond the grid its outermost pieces go on, which are
straight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnist1d.loss import cross_entropy_stacked
from mnist1d.models.activation import Activation

REACH = 16
"""The grid goes from -REACH to REACH."""
PER_UNIT = 80
"""Pieces per unit of the argument. Tenths and quarters are nodes, where functions made by hand have their kinks."""

Jet = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Functions of one number: places ``[points]`` -> values and slopes, ``[N or 1, points]`` each."""


def tabulate(
    jet: Jet,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    per_unit: int = PER_UNIT,
) -> Tensor:
    """N functions as cubics: coefficients by ascending power ``[4, N, pieces]``, differentiable.

    Computed in double precision: the upper ones are differences of neighbours. Each piece is evaluated at its own ends,
    from within, so that a kink at a node stays one.

    Args:
        jet: the functions; it is asked for places on `device`.
        device: of the table.
        dtype: of the table.
        per_unit: pieces per unit of the argument.
    """
    nodes = torch.arange(-REACH * per_unit, REACH * per_unit + 1, dtype=torch.float64, device=device) / per_unit
    inside = 1e-9 / per_unit
    (left, rise), (right, fall) = jet(nodes[:-1] + inside), jet(nodes[1:] - inside)
    rise, fall, step = rise / per_unit, fall / per_unit, right - left
    bent = torch.ones_like(left)
    bent[:, [0, -1]] = 0
    # the straight piece at the left end has the slope and the value of its right end
    start = torch.cat([(right - fall)[:, :1], left[:, 1:]], 1)
    first = torch.cat([fall[:, :1], rise[:, 1:]], 1)
    return torch.stack([start, first, (3 * step - 2 * rise - fall) * bent, (rise + fall - 2 * step) * bent]).to(dtype)


@dataclass(frozen=True)
class Pieces:
    """Where arguments ``[N, ...]`` lie in tables: numbers of their pieces, places in them, and their coefficients."""

    number: Tensor
    place: Tensor
    coefficients: tuple[Tensor, ...]
    per_unit: int

    @classmethod
    def of(cls, tables: Tensor, z: Tensor) -> Pieces:
        """Those of `z` in ``[4, N, pieces]``; `number` is flat, into ``[N · pieces]``."""
        size, pieces = tables.shape[1:]
        place = z * (pieces // (2 * REACH))
        floor = place.floor().clamp_(-pieces // 2, pieces // 2 - 1).nan_to_num_(0.0)  # NaN stays in `place`
        place -= floor
        first = torch.arange(size, device=z.device, dtype=z.dtype) * pieces + pieces // 2
        number = floor.add_(first.view(-1, *[1] * (z.ndim - 1))).long().flatten()
        found = tuple(power.flatten().index_select(0, number).view_as(z) for power in tables)
        return cls(number, place, found, pieces // (2 * REACH))

    def value(self) -> Tensor:
        """The functions at their arguments."""
        a, b, c, d = self.coefficients
        return torch.addcmul(a, torch.addcmul(b, torch.addcmul(c, d, self.place), self.place), self.place)

    def slope(self) -> Tensor:
        """Their first derivatives."""
        _, b, c, d = self.coefficients
        return torch.addcmul(b, torch.addcmul(c, d, self.place, value=1.5), self.place, value=2).mul_(self.per_unit)

    def bend(self) -> Tensor:
        """Their second derivatives."""
        _, _, c, d = self.coefficients
        return torch.addcmul(c, d, self.place, value=3).mul_(2 * self.per_unit**2)


class _LookUp(torch.autograd.Function):
    """Values at arguments, differentiable by them once; the tables are constant."""

    @staticmethod
    def forward(ctx: Any, tables: Tensor, z: Tensor) -> Tensor:
        found = Pieces.of(tables, z)
        ctx.save_for_backward(found.slope())
        return found.value()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (slope,) = ctx.saved_tensors
        return None, grad * slope


def as_activation(tables: Tensor) -> Activation:
    """Tables ``[4, N, pieces]`` as the activation of N nets, for arguments ``[N, ...]``; they are constant."""
    return Activation(lambda z: _LookUp.apply(tables, z), lambda z: Pieces.of(tables, z).slope())


@dataclass(frozen=True)
class Rule:
    """RMSprop: ``params ← params - lr · gradient / (√squares + eps)``.

    Attributes:
        lr: one per net, ``[N, 1]``.
        alpha: decay of ``squares ← alpha · squares + (1 - alpha) · gradient²``, before it.
        eps: added to its root.
    """

    lr: Tensor
    alpha: float
    eps: float


class TrainingStep(torch.autograd.Function):
    """One step of RMSprop of N nets with one hidden layer whose activations are tables.

    Differentiable by all but batch and rule. Both ways are written out: in autograd's own operations a step would be a
    graph of a hundred nodes, which takes three times as long.
    """

    @staticmethod
    def forward(
        ctx: Any,
        params: Tensor,
        squares: Tensor,
        tables: Tensor,
        noise: Tensor,
        batch: tuple[Tensor, Tensor],
        rule: Rule,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Nets and running mean squares after the step, and the losses ``[N]`` before it.

        Args:
            ctx: autograd's.
            params: the nets, ``[N, P]`` (see `split`).
            squares: running means of the squared gradients, ``[N, P]``.
            tables: activations, ``[4, N, pieces]``.
            noise: added to the hidden units, ``[N, 1, hidden]``.
            batch: inputs ``[N, rows, length]`` and one-hot labels ``[N, rows, classes]``.
            rule: of the step.
        """
        x, targets = batch
        w1, b1, w2, b2 = split(params, x.shape[2], targets.shape[2])
        found = Pieces.of(tables, torch.baddbmm(b1.unsqueeze(1), x, w1.mT))
        slope, hidden = found.slope(), found.value().add_(noise)
        log_p = torch.baddbmm(b2.unsqueeze(1), hidden, w2.mT).log_softmax(-1)
        losses = (log_p * targets).sum((1, 2)).div_(-x.shape[1])
        p = log_p.exp_()
        to_logits = (p - targets).div_(x.shape[1])
        to_hidden = to_logits.bmm(w2)
        to_z = to_hidden * slope
        gradient = joined(to_z.mT.bmm(x), to_z.sum(1), to_logits.mT.bmm(hidden), to_logits.sum(1))
        squares = (squares * rule.alpha).addcmul_(gradient, gradient, value=1 - rule.alpha)
        root = squares.sqrt()
        update = gradient / (root + rule.eps)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(
                w2, x, found.number, found.place, slope, found.bend(), hidden, p, to_logits, to_hidden, gradient, root
            )
            ctx.rule, ctx.tables = rule, tables.shape
        return torch.addcmul(params, update, rule.lr, value=-1), squares, losses

    @staticmethod
    def backward(ctx: Any, of_params: Tensor, of_squares: Tensor, of_losses: Tensor) -> tuple[Tensor | None, ...]:
        """From adjoints of the step's results to those of what it started from."""
        w2, x, number, place, slope, bend, hidden, p, to_logits, to_hidden, gradient, root = ctx.saved_tensors
        rule: Rule = ctx.rule
        per_unit = ctx.tables[2] // (2 * REACH)
        # the update
        denominator = root + rule.eps
        of_gradient = of_params * rule.lr / denominator
        # a weight that never had a gradient has root 0, and nothing to hand on
        of_squares = torch.addcdiv(
            of_squares, of_gradient * gradient, denominator.mul_(root.clamp(min=1e-30)), value=0.5
        )
        of_gradient = (of_squares * gradient).mul_(2 * (1 - rule.alpha)).sub_(of_gradient)
        # the gradient
        g1, h1, g2, h2 = split(of_gradient, x.shape[2], p.shape[2])
        of_z = torch.baddbmm(h1.unsqueeze(1), x, g1.mT)
        of_slope = of_z * to_hidden
        of_to_hidden = of_z.mul_(slope)
        of_p = torch.baddbmm(h2.unsqueeze(1), hidden, g2.mT).baddbmm_(of_to_hidden, w2.mT).mul_(p)
        # the losses
        of_logits = torch.addcmul(of_p, p, of_p.sum(-1, keepdim=True), value=-1).div_(x.shape[1])
        of_logits.addcmul_(to_logits, of_losses.view(-1, 1, 1))
        of_w2 = torch.baddbmm(to_logits.mT.bmm(of_to_hidden), of_logits.mT, hidden)
        of_hidden = torch.baddbmm(to_logits.bmm(g2), of_logits, w2)
        to_z = (of_hidden * slope).addcmul_(of_slope, bend)
        of_nets = joined(to_z.mT.bmm(x), to_z.sum(1), of_w2, of_logits.sum(1))
        of_tables = _to_coefficients(ctx.tables, number, place, of_hidden, of_slope.mul_(per_unit))
        of_noise = of_hidden.sum(1, keepdim=True)
        return of_nets.add_(of_params), of_squares.mul_(rule.alpha), of_tables, of_noise, None, None


def _to_coefficients(shape: torch.Size, number: Tensor, place: Tensor, of_value: Tensor, of_slope: Tensor) -> Tensor:
    """The adjoints of values and of slopes per piece, handed on to the coefficients that they were made of."""
    tables = of_value.new_zeros(shape[0], shape[1] * shape[2])
    for power in tables:
        power.scatter_add_(0, number, of_value.flatten())
        of_value = torch.addcmul(of_slope, of_value, place)
        of_slope = of_slope * place
    return tables.view(shape)


def split(params: Tensor, length: int, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights and biases of both layers, ``[N, hidden, length]``, ``[N, hidden]``, ``[N, classes, hidden]`` and
    ``[N, classes]``, out of ``[N, P]``; views."""
    hidden = (params.shape[1] - classes) // (length + 1 + classes)
    w1, b1, w2, b2 = params.split([hidden * length, hidden, hidden * classes, classes], 1)
    return w1.unflatten(1, (hidden, length)), b1, w2.unflatten(1, (classes, hidden)), b2


def joined(*params: Tensor) -> Tensor:
    """Inverse of `split`: ``[N, P]``."""
    return torch.cat([param.flatten(1) for param in params], 1)


@dataclass(frozen=True)
class Nets:
    """N nets in training.

    Attributes:
        params: ``[N, P]``.
        squares: running means of the squared gradients, ``[N, P]``.
        losses: on the mini-batches so far, each before its update, ``[steps, N]``.
    """

    params: Tensor
    squares: Tensor
    losses: Tensor

    @classmethod
    def new(cls, params: Tensor, initial: float) -> Nets:
        """Untrained ones, whose running means start at `initial`."""
        return cls(params, torch.full_like(params, initial), params.new_empty(0, len(params)))

    def train(self, tables: Tensor, noise: Tensor, batches: Iterable[tuple[Tensor, Tensor]], rule: Rule) -> Nets:
        """The nets after one step per mini-batch; differentiable by tables and noise.

        Args:
            tables: their activations, ``[4, N, pieces]``.
            noise: added to the hidden units, ``[N, steps, hidden]``.
            batches: inputs ``[N, rows, length]`` and one-hot labels ``[N, rows, classes]``, of every step.
            rule: of every step.
        """
        params, squares, losses = self.params, self.squares, []
        for step, batch in enumerate(batches):
            shift = noise[:, step : step + 1]
            params, squares, loss = TrainingStep.apply(params, squares, tables, shift, batch, rule)
            losses.append(loss)
        return Nets(params, squares, torch.cat([self.losses, torch.stack(losses)]))


@torch.no_grad()
def score(
    params: Tensor, tables: Tensor, noise: Tensor, x: Tensor, y: Tensor, classes: int = 10
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy in [0, 1] of N nets, ``[N]`` each.

    Args:
        params: the nets, ``[N, P]``.
        tables: their activations, ``[4, N, pieces]``.
        noise: added to the hidden units, ``[N or 1, hidden]``.
        x: inputs ``[N or 1, rows, length]``.
        y: labels ``[N or 1, rows]``.
    """
    x, y = (values.expand(len(params), *values.shape[1:]) for values in (x, y))
    w1, b1, w2, b2 = split(params, x.shape[2], classes)
    hidden = Pieces.of(tables, torch.baddbmm(b1.unsqueeze(1), x, w1.mT)).value() + noise.unsqueeze(1)
    logits = torch.baddbmm(b2.unsqueeze(1), hidden, w2.mT)
    return cross_entropy_stacked(logits, y).double(), (logits.argmax(-1) == y).double().mean(1)
