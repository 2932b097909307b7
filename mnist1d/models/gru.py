"""The paper's bidirectional GRU: plain for one run, and worked by hand for a stack of runs.

Stacked, every member brings two *cells*, one per direction; the reverse one reads its row from the end. All
cells take a time step together, with the batch as the last and contiguous axis. What a cell knows before a
step is one matrix,

    state = [h; x; 1]                                   # [hidden + step_size + 1, batch]

so that a single product with a packed weight gives every gate, biases and input included:

    cell @ state = [r'; z'; c; i]                       # [4 * hidden, batch]
    r = sigmoid(r'),  z = sigmoid(z')
    n = tanh(i + r * c)
    h_next = (1 - z) * n + z * h

Only the states are kept for the backward pass. The gates are computed again there, a span of steps at once;
this takes no longer than storing and fetching them, and a quarter of the memory. With d = dLoss/dh_next and
p = (1 - z)(1 - n^2),

    d[r'; z'; c; i] = slopes * d,   slopes = [p c r (1 - r); (h - n) z (1 - z); p r; p]
    dLoss/dh        = z * d + (columns of h in cell)^T d[r'; z'; c; i]
    dLoss/dcell     = sum over steps of d[r'; z'; c; i] @ state^T

No slope depends on d, so a span's slopes too are taken at once; two products and two elementwise operations
per step are all that must run in sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Elements of one gate in a span of steps: enough to share between cores, few enough to stay in their caches.
SPAN_ELEMENTS = 2**17
# Samples, of all members together, in one piece of an evaluation.
EVALUATION_SAMPLES = 4000


class GRU(nn.Module):
    """Bidirectional GRU; the outputs of all time steps feed one linear layer.

    Args:
        input_size: positions of a signal.
        num_classes: number of logits.
        hidden: units per direction.
        step_size: positions read at a time step, a divisor of `input_size`: 1 in the paper; of a flattened image
            customarily a row of pixels.

    With the paper's sizes (40, 10, 6) it has 5134 parameters.

    Raises ValueError for a `step_size` that is no divisor.
    """

    def __init__(self, input_size: int = 40, num_classes: int = 10, *, hidden: int = 6, step_size: int = 1) -> None:
        super().__init__()
        if input_size % step_size:
            raise ValueError(f"step_size is {step_size}, expected a divisor of input_size={input_size}")
        self.gru = nn.GRU(step_size, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden * (input_size // step_size), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, num_classes] of x [batch, input_size]."""
        outputs, _ = self.gru(x.unflatten(1, (-1, self.gru.input_size)))
        return self.linear(outputs.flatten(1))

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """Logits [member, batch, num_classes] of x [member, batch, input_size], each by its own weights.

        Args:
            params: the parameters of this module by name, each with a leading member axis.
            x: one batch per member; strides are free.

        Equals `forward` member by member up to rounding. Differentiable once; without grad mode nothing is
        kept and the batch goes through in pieces.
        """
        cell, readout = _pack_cells(params), _pack_readout(params)
        bias = params["linear.bias"].unsqueeze(-1)
        if torch.is_grad_enabled():
            return _read(_Recurrence.apply(cell, x), readout, bias)
        pieces = x.split(max(1, EVALUATION_SAMPLES // len(x)), dim=1)
        return torch.cat([_read(_unroll(cell, piece), readout, bias) for piece in pieces], dim=1)


def _pack_cells(params: dict[str, Tensor]) -> Tensor:
    """Weights of all cells [2 * member, 4 * hidden, hidden + step_size + 1]; directions alternate on the first axis."""

    def both(name: str) -> Tensor:
        return torch.stack([params[f"gru.{name}"], params[f"gru.{name}_reverse"]], 1).flatten(0, 1)

    weight_h, weight_x = both("weight_hh_l0"), both("weight_ih_l0")
    bias_h, bias_x = both("bias_hh_l0"), both("bias_ih_l0")
    hidden = weight_h.shape[-1]
    # The candidate's two halves stay apart, because r scales only the recurrent one.
    sizes = [2 * hidden, hidden]
    x_gates, x_candidate = weight_x.split(sizes, 1)
    bias_gates, bias_candidate = bias_x.split(sizes, 1)
    columns_h = F.pad(weight_h, (0, 0, 0, hidden))
    columns_x = torch.cat([x_gates, torch.zeros_like(x_candidate), x_candidate], 1)
    column_1 = torch.cat([bias_h + F.pad(bias_gates, (0, hidden)), bias_candidate], 1).unsqueeze(-1)
    return torch.cat([columns_h, columns_x, column_1], 2)


def _pack_readout(params: dict[str, Tensor]) -> Tensor:
    """The linear layer's weight in the order of states: [member, class, 2 * (step + 1) * (hidden + step_size + 1)]."""
    weight, hidden = params["linear.weight"], params["gru.weight_hh_l0"].shape[-1]
    others = params["gru.weight_ih_l0"].shape[-1] + 1
    onward, reverse = weight.unflatten(2, (-1, 2, hidden)).unbind(3)
    by_direction = torch.stack([onward, reverse.flip(2)], 2)
    return F.pad(by_direction, (0, others, 1, 0)).flatten(2)  # no weight on x, 1 and the initial state


def _read(states: Tensor, readout: Tensor, bias: Tensor) -> Tensor:
    """Logits [member, batch, class] from the states of both directions."""
    members, batch = len(readout), states.shape[-1]
    return torch.baddbmm(bias, readout, states.view(members, -1, batch)).mT


def _hidden(cell: Tensor) -> int:
    return cell.shape[1] // 4


def _initial_states(cell: Tensor, x: Tensor) -> Tensor:
    """Room for all states [2 * member, step + 1, hidden + step_size + 1, batch], inputs filled in and h_0 = 0."""
    hidden, width, (members, batch, _) = _hidden(cell), cell.shape[2], x.shape
    read = x.unflatten(2, (-1, width - hidden - 1)).permute(0, 2, 3, 1)  # [member, step, step_size, batch]
    states = x.new_empty(members, 2, read.shape[1] + 1, width, batch)
    states[:, 0, :-1, hidden:-1] = read
    states[:, 1, :-1, hidden:-1] = read.flip(1)
    states[:, :, -1, hidden:-1] = 0
    states[:, :, :, -1] = 1
    states[:, :, 0, :hidden] = 0
    return states.flatten(0, 1)


def _unroll(cell: Tensor, x: Tensor) -> Tensor:
    """States [2 * member, step + 1, hidden + step_size + 1, batch] of all cells over x [member, batch, position]."""
    states = _initial_states(cell, x)
    state, h = states.unbind(1), states[:, :, : _hidden(cell)].unbind(1)
    gates = _Gates(cell, x.shape[1], span=1)
    z, n = gates.z[0], gates.n[0]
    for t in range(len(state) - 1):
        gates.evaluate(cell, state[t : t + 1])
        torch.lerp(n, h[t], z, out=h[t + 1])
    return states


class _Gates:
    """Gates of all cells over `span` consecutive steps, in buffers that serve one span after the other."""

    def __init__(self, cell: Tensor, batch: int, span: int) -> None:
        cells, rows, _ = cell.shape
        hidden = _hidden(cell)
        products = cell.new_empty(span, cells, rows, batch)
        self.r, self.z, self.c, self.i = products.split(hidden, 2)
        self.n = cell.new_empty(span, cells, hidden, batch)  # contiguous: tanh is slow on slices
        self._products, self._sigmoids = products.unbind(0), products[:, :, : 2 * hidden]

    def evaluate(self, cell: Tensor, states: Sequence[Tensor]) -> None:
        """Fill in the gates of the steps that start from `states`: `span` of [cell, width, batch]."""
        for state, product in zip(states, self._products, strict=True):
            torch.bmm(cell, state, out=product)
        self._sigmoids.sigmoid_()
        torch.addcmul(self.i, self.r, self.c, out=self.n).tanh_()

    def slopes(self, h: Tensor, out: Tensor) -> None:
        """Derivatives of h_next in the rows of the product, into out [span, cell, 4, hidden, batch]."""
        d_r, d_z, d_c, d_i = out.unbind(2)
        torch.sub(h.new_ones(()), self.z, out=d_i)
        torch.ops.aten.tanh_backward.grad_input(d_i, self.n, grad_input=d_i)
        torch.mul(d_i, self.r, out=d_c)
        torch.mul(d_i, self.c, out=d_r)
        torch.ops.aten.sigmoid_backward.grad_input(d_r, self.r, grad_input=d_r)
        torch.sub(h, self.n, out=d_z)
        torch.ops.aten.sigmoid_backward.grad_input(d_z, self.z, grad_input=d_z)


class _Recurrence(torch.autograd.Function):
    """`_unroll` with the backward pass derived above; gradients of the states' rows x and 1 are dropped."""

    @staticmethod
    def forward(ctx: Any, cell: Tensor, x: Tensor) -> Tensor:
        states = _unroll(cell, x)
        ctx.save_for_backward(cell, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor, Tensor | None]:
        cell, states = ctx.saved_tensors
        d_cell, d_inputs = _backpropagate(cell, states, d_states, ctx.needs_input_grad[1])
        if d_inputs is None:
            return d_cell, None
        onward, reverse = d_inputs.unflatten(1, (-1, 2)).unbind(2)  # [step, member, step_size, batch]
        return d_cell, (onward + reverse.flip(0)).permute(1, 3, 0, 2).flatten(2)


def _span(steps: int, elements: int) -> int:
    """Length of equal spans that cover `steps` and keep to SPAN_ELEMENTS, with `elements` in a step."""
    longest = max(1, SPAN_ELEMENTS // elements)
    return math.ceil(steps / math.ceil(steps / longest))


def _backpropagate(cell: Tensor, states: Tensor, d_states: Tensor, with_inputs: bool) -> tuple[Tensor, Tensor | None]:
    """Gradients of the cells and, if wanted, of what they read, [step, cell, step_size, batch]."""
    cells, steps, batch = len(cell), states.shape[1] - 1, states.shape[3]
    hidden, step_size = _hidden(cell), cell.shape[2] - _hidden(cell) - 1
    state, state_t = states.unbind(1), states.mT.unbind(1)
    h, d_h = states[:, :, :hidden].transpose(0, 1), d_states[:, :, :hidden].unbind(1)
    to_h, to_x = cell[:, : 3 * hidden, :hidden].mT, cell[:, :, hidden:-1].mT

    span = _span(steps, cells * hidden * batch)
    gates = _Gates(cell, batch, span)
    slopes = cell.new_empty(span, cells, 4, hidden, batch)
    slope, z = slopes.unbind(0), gates.z.unbind(0)

    d = d_h[steps].clone(memory_format=torch.contiguous_format)
    d_rows = cell.new_empty(cells, 4 * hidden, batch)
    d_gates, d_recurrent = d_rows.unflatten(1, (4, hidden)), d_rows[:, : 3 * hidden]
    d_cell = torch.zeros_like(cell)
    d_inputs = cell.new_empty(steps, cells, step_size, batch) if with_inputs else None
    for stop in range(steps, 0, -span):
        # The span at the start of time may overlap the one after it: the buffers have a fixed length.
        first = max(0, stop - span)
        gates.evaluate(cell, state[first : first + span])
        gates.slopes(h[first : first + span], out=slopes)
        for t in range(stop - 1, first - 1, -1):
            torch.mul(slope[t - first], d.unsqueeze(1), out=d_gates)
            d_cell.baddbmm_(d_rows, state_t[t])
            if d_inputs is not None:
                torch.bmm(to_x, d_rows, out=d_inputs[t])
            torch.addcmul(d_h[t], d, z[t - first], out=d).baddbmm_(to_h, d_recurrent)
    return d_cell, d_inputs
