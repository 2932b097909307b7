"""Convolutions of a whole stack with any stride and dilation: the layers of residual and dilated networks.

Activations are [member, position, sample, channel]. With the positions in front, what one tap of a kernel sees of a
whole batch is one block of rows, however far the dilation reaches; where it looks beyond an end there are no rows, so
that padding takes neither memory nor time. A convolution is one batched product per tap, on views. (`CNN` has a layout
of its own, with ReLU and pooling fused: faster for its narrow kernels, but it knows neither dilation nor shortcuts.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .linear import stacked_linear, sum_rows


@dataclass(frozen=True)
class Geometry:
    """Where a kernel's taps lie: output t sees inputs t * stride + j * dilation - lead, for j below `kernel`.

    There is one output for each `stride` inputs, and one tap must see input t * stride itself.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    lead: int = 0

    def outputs(self, length: int) -> int:
        """Positions left of `length`."""
        return -(-length // self.stride)

    def taps(self, length: int) -> Iterator[tuple[int, slice, slice]]:
        """Taps that see anything: the tap, the outputs it serves, the inputs it sees; first the one that serves all."""
        for j in sorted(range(self.kernel), key=lambda j: j * self.dilation != self.lead):
            offset = j * self.dilation - self.lead
            first = max(0, -(offset // self.stride))
            stop = min(self.outputs(length), (length - 1 - offset) // self.stride + 1)
            if first < stop:
                start = first * self.stride + offset
                seen = slice(start, start + (stop - first - 1) * self.stride + 1, self.stride)
                yield j, slice(first, stop), seen


def centred(kernel: int, stride: int = 1, dilation: int = 1) -> Geometry:
    """A kernel of odd width that reaches as far back as ahead."""
    return Geometry(kernel, stride, dilation, (kernel // 2) * dilation)


def stacked_signal_conv(x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry) -> Tensor:
    """The first layer of every member: signals [N, B, L], [N, C', 1, kernel], [N, C'] -> [N, L', B, C'].

    A product with one channel would leave the processor idle, so the values that a window covers are copied out.
    """
    reach = (geometry.kernel - 1) * geometry.dilation
    padded = F.pad(x, (geometry.lead, reach - geometry.lead))
    windows = padded.unfold(2, reach + 1, geometry.stride)[..., :: geometry.dilation]
    rows = windows.transpose(1, 2).flatten(1, 2)
    return stacked_linear(rows, weight.squeeze(2), bias).unflatten(1, (-1, x.shape[1]))


def stacked_conv(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """A later layer of every member: [N, L, B, C], [N, C', C, kernel], [N, C'] -> [N, L', B, C']."""
    return _Convolution.apply(x.contiguous(), weight, bias, geometry)


class _Convolution(torch.autograd.Function):
    """Written out, for autograd would copy every tap's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        members, length, batch, _ = x.shape
        matrices = weight.permute(3, 0, 2, 1).contiguous()  # [kernel, N, C, C']
        out = x.new_empty(members, geometry.outputs(length), batch, weight.shape[1])
        (centre, _, seen), *others = geometry.taps(length)
        torch.bmm(_rows(x[:, seen]), matrices[centre], out=_rows(out))
        if bias is not None:
            out += bias[:, None, None]
        for tap, served, seen in others:
            _rows(out[:, served]).baddbmm_(_rows(x[:, seen]), matrices[tap])
        ctx.save_for_backward(x, matrices)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        x, matrices = ctx.saved_tensors
        grad, geometry = grad.contiguous(), ctx.geometry
        to_x = _input_grad(grad, x, matrices, geometry) if ctx.needs_input_grad[0] else None
        to_bias = sum_rows(_rows(grad)) if ctx.needs_input_grad[2] else None
        return to_x, _weight_grad(grad, x, geometry), to_bias, None


def _rows(x: Tensor) -> Tensor:
    """[N, L, B, C] -> [N, L * B, C]: a view, unless positions are left out."""
    return x.flatten(1, 2)


def _input_grad(grad: Tensor, x: Tensor, matrices: Tensor, geometry: Geometry) -> Tensor:
    (centre, _, seen), *others = geometry.taps(x.shape[1])
    if geometry.stride == 1:
        to_x = torch.empty_like(x)
        torch.bmm(_rows(grad), matrices[centre].mT, out=_rows(to_x))
    else:
        to_x = torch.zeros_like(x)
        to_x[:, seen] = _rows(grad).bmm(matrices[centre].mT).view_as(to_x[:, seen])
    for tap, served, seen in others:
        rows, matrix = _rows(grad[:, served]), matrices[tap].mT
        if geometry.stride == 1:
            _rows(to_x[:, seen]).baddbmm_(rows, matrix)
        else:
            to_x[:, seen] += rows.bmm(matrix).view_as(to_x[:, seen])
    return to_x


def _weight_grad(grad: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    members, channels, kernel = len(grad), (grad.shape[3], x.shape[3]), geometry.kernel
    to_weight = grad.new_zeros(members, *channels, kernel)
    for tap, served, seen in geometry.taps(x.shape[1]):
        to_weight[..., tap] = _rows(grad[:, served]).mT.bmm(_rows(x[:, seen]))
    return to_weight
