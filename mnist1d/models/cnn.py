"""The paper's convolutional network, with strides or with pooling, plain and batched by hand over a stack.

The stacked form keeps activations as rows of channels, [member, sample × position, channel]. The values under
a window are then consecutive in memory, and a convolution is a few matrix products on views, without copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .activation import ACTIVATIONS, Activation
from .dropout import Dropout
from .linear import stacked_linear, sum_rows

POOLING = ("none", "stride", "max", "avg", "l2", "blur", "max_blur")
_PADDING = 1
_POOL = 2  # positions under the pooling windows of the fast road, which do not overlap
_CHUNK = 150_000  # samples × channels, over all members, evaluated at a time: what the caches hold


@dataclass(frozen=True)
class Pooling:
    """What shortens a signal behind a convolution.

    max, avg, l2   of the windows that fit, every `step` positions: maximum, mean, root of the sum of squares
    blur           anti-aliased: a mean with binomial weights over window + 1 positions, ends repeated (Zhang 2019,
                   "Making Convolutional Networks Shift-Invariant Again", arXiv:1904.11486)
    max_blur       the same of maxima at every position
    stride         nothing: the convolution itself has stride `step`
    none           nothing

    Raises ValueError for an unknown kind.
    """

    kind: str
    window: int = _POOL
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in POOLING:
            raise ValueError(f"pooling is {self.kind!r}, expected one of {', '.join(POOLING)}")

    @property
    def step(self) -> int:
        """Positions from one window to the next."""
        return self.stride or self.window

    @property
    def convolution_stride(self) -> int:
        """Stride of the convolution."""
        return self.step if self.kind == "stride" else 1

    @property
    def pools(self) -> bool:
        """Whether there is anything behind the convolution."""
        return self.kind not in ("none", "stride")

    @property
    def fused(self) -> bool:
        """Whether the fast road has it."""
        return not self.pools or (self.kind in ("max", "avg", "l2") and self.window == self.step == _POOL)

    def positions(self, length: int) -> int:
        """Positions left of `length`."""
        if not self.pools:
            return length
        windows = length if self.kind == "blur" else length - self.window + 1
        return -(-windows // self.step)

    def __call__(self, x: Tensor) -> Tensor:
        """Pool [batch, channels, positions]."""
        if self.kind == "max":
            return F.max_pool1d(x, self.window, self.step)
        if self.kind == "avg":
            return F.avg_pool1d(x, self.window, self.step)
        if self.kind == "l2":
            return torch.linalg.vector_norm(x.unfold(-1, self.window, self.step), dim=-1)  # its gradient at 0 is 0
        if self.kind == "max_blur":
            return self._blurred(F.max_pool1d(x, self.window, 1))
        return self._blurred(x) if self.kind == "blur" else x

    def _blurred(self, x: Tensor) -> Tensor:
        weights = x.new_tensor([math.comb(self.window, k) for k in range(self.window + 1)]) / 2**self.window
        ends = self.window // 2, self.window - self.window // 2
        return F.pad(x, ends, mode="replicate").unfold(-1, self.window + 1, self.step) @ weights


class Convolutions(nn.ModuleList):
    """Convolutions of padding 1, each with activation and pooling: what a CNN and an encoder have below linear layers.

    Raises ValueError for an unknown `pooling` or a signal too short for the layers, KeyError for an unknown activation.
    """

    def __init__(
        self,
        input_size: int,
        channels: int,
        kernel_sizes: Sequence[int],
        pooling: str | Pooling,
        activation: str | Activation = "relu",
    ) -> None:
        pooling = Pooling(pooling) if isinstance(pooling, str) else pooling
        plan = _plan(input_size, kernel_sizes, pooling)
        widths = [1] + [channels] * len(kernel_sizes)
        super().__init__(
            nn.Conv1d(width, channels, layer.kernel, layer.stride, _PADDING)
            for width, layer in zip(widths, plan, strict=False)
        )
        self.pooling, self.plan, self.channels = pooling, plan, channels
        self.activation = Activation.of(activation)

    @property
    def positions(self) -> int:
        """Positions left in the end."""
        return self.plan[-1].pooled

    @property
    def features(self) -> int:
        """Outputs in the end, over channels and positions."""
        return self.channels * self.positions

    def activations(self, x: Tensor) -> list[Tensor]:
        """Signals [batch, input_size] -> what each convolution hands on, [batch, channels, positions]."""
        outputs = [x.unsqueeze(1)]
        for conv in self:
            outputs.append(self.pooling(self.activation.value(conv(outputs[-1]))))
        return outputs[1:]

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> [batch, channels, positions]."""
        return self.activations(x)[-1]

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> [N, B, positions, channels].

        `params` has "convs.0.weight" and so on, each [N, ...]. The gradient must be the output's alone: it is
        overwritten.
        """
        if self.activation is not ACTIVATIONS["relu"] or not self.pooling.fused:
            return self._one_after_another(params, x)
        members, batch, _ = x.shape
        first, *others = (
            _Stage(layer, target, self.pooling.kind, batch)
            for layer, target in zip(self.plan, _targets(self.plan), strict=True)
        )
        matrix = torch.cat([params["convs.0.weight"].squeeze(2).mT, params["convs.0.bias"].unsqueeze(1)], 1)
        hidden = _FirstStage.apply(_columns(x, first), matrix, first)
        for i, stage in enumerate(others, 1):
            hidden = _NextStage.apply(hidden, params[f"convs.{i}.weight"], params[f"convs.{i}.bias"], stage)
        return hidden.view(members, batch, self.positions, -1)

    def _one_after_another(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """`forward_stacked` with anything: windows are copied, and autograd keeps what every operation needs."""
        batch, hidden = x.shape[1], x.unsqueeze(3)
        for i, layer in enumerate(self.plan):
            padded = F.pad(hidden, (0, 0, _PADDING, _PADDING))  # [N, B, positions, C]
            reach = layer.stride * (layer.convolved - 1) + 1
            taps = [padded[:, :, tap : tap + reach : layer.stride] for tap in range(layer.kernel)]
            matrix = params[f"convs.{i}.weight"].mT.flatten(2)  # [N, C', kernel * C]
            convolved = stacked_linear(torch.cat(taps, 3).flatten(1, 2), matrix, params[f"convs.{i}.bias"])
            hidden = _pool_positions(self.activation.value(convolved).unflatten(1, (batch, -1)), self.pooling)
        return hidden


class CNN(nn.Module):
    """Convolutions of padding 1, each with an activation, then one linear layer on all channels and positions.

    `pooling` says what shortens the signal: "stride" (stride-2 convolutions, the paper's network of
    6c² + 58c + 10 parameters at c channels, 5210 at 25), "none" (nothing does), or "max", "avg", "l2" (stride
    1, and after each activation windows of 2 are pooled; L2 is the root of the sum of squares), "blur", "max_blur"
    (`Pooling`); `window` and `pool_stride` say how many positions and how far apart, or how long a stride is. `dropout`
    is the share of the linear layer's inputs that is dropped in training. The paper's
    `mnist1d-classification.ipynb` and `deep-double-descent.ipynb` have "stride"; its `benchmark-pooling.ipynb` has
    `channels=20, kernel_sizes=(3, 3)`: 9310 parameters for "none", 3310 otherwise.
    `activation` is a function, or its name in `mnist1d.models.activation.ACTIVATIONS`; ReLU, the paper's, is fastest.

    Raises ValueError for an unknown `pooling` or a signal too short for the layers, KeyError for an unknown activation.
    """

    def __init__(
        self,
        input_size: int = 40,
        num_classes: int = 10,
        *,
        channels: int = 25,
        kernel_sizes: Sequence[int] = (5, 3, 3),
        pooling: str = "stride",
        window: int = _POOL,
        pool_stride: int | None = None,
        dropout: float = 0.0,
        activation: str | Activation = "relu",
    ) -> None:
        super().__init__()
        pools = Pooling(pooling, window, pool_stride)
        self.convs = Convolutions(input_size, channels, kernel_sizes, pools, activation)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(self.convs.features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> logits [batch, num_classes]."""
        return self.linear(self.dropout(self.convs(x).flatten(1), self.training))

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> logits [N, B, num_classes].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        if torch.is_grad_enabled():
            return self._forward_chunk(params, x)
        channels = params["convs.0.bias"].shape[1]
        chunks = x.split(max(1, _CHUNK // (channels * len(x))), dim=1)
        return torch.cat([self._forward_chunk(params, chunk) for chunk in chunks], dim=1)

    def _forward_chunk(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        hidden = self.dropout.stacked(self.convs.forward_stacked(params, x).flatten(2), self.training)
        readout = by_position(params["linear.weight"], self.convs.positions)
        return stacked_linear(hidden, readout, params["linear.bias"])


def by_position(weight: Tensor, positions: int) -> Tensor:
    """Reorder the inputs of linear layers, [N, out, channels * positions], to the stacked form's order.

    The plain module flattens channel by channel, the stacked one position by position.
    """
    return weight.unflatten(2, (-1, positions)).mT.flatten(2)


def _pool_positions(x: Tensor, pooling: Pooling) -> Tensor:
    """`pooling` of [member, batch, positions, channels]."""
    members = len(x)
    return pooling(x.flatten(0, 1).mT).mT.unflatten(0, (members, -1))


@dataclass(frozen=True)
class _Frame:
    """A sample in a buffer [N, B * rows, C]: `lead` zero rows, `length` positions, zero rows up to `rows`.

    Behind a member's last sample, outside the buffer's shape but in its memory, follow `tail` more zero rows.
    """

    length: int
    rows: int
    lead: int = 0
    tail: int = 0

    def positions(self, buffer: Tensor, batch: int) -> Tensor:
        """The positions as a view [N, B, length, C]."""
        samples = buffer[:, : batch * self.rows].unflatten(1, (batch, self.rows))
        return samples.narrow(2, self.lead, self.length)

    def empty(self, like: Tensor, batch: int) -> Tensor:
        """A buffer [N, B * rows, C] for the N and C of `like`, zero rows written, positions not."""
        members, _, channels = like.shape
        memory = like.new_empty(members, batch * self.rows + self.tail, channels)
        buffer = memory[:, : batch * self.rows]
        if self.rows > self.length:
            samples = buffer.unflatten(1, (batch, self.rows))
            samples[:, :, : self.lead] = 0
            samples[:, :, self.lead + self.length :] = 0
            memory[:, batch * self.rows :] = 0
        return buffer


@dataclass(frozen=True)
class _Layer:
    """The lengths of one convolution and its pooling: `length` positions in, `pooled` out."""

    length: int
    kernel: int
    stride: int
    pooling: Pooling

    @property
    def convolved(self) -> int:
        return (self.length + 2 * _PADDING - self.kernel) // self.stride + 1

    @property
    def pooled(self) -> int:
        return self.pooling.positions(self.convolved)

    @property
    def outputs(self) -> int:
        """Windows computed per sample; those beyond `convolved` straddle two samples and are not used."""
        return max(-(-(_PADDING + self.length) // self.stride), self.convolved)

    @property
    def frame(self) -> _Frame:
        """How the input lies: only the left padding is stored, the next sample's serves as the right one.

        A sample is a whole number of strides long, so that windows are evenly spaced over all samples. At
        stride 2, the paper's 19 positions and their padding are 20 rows, and no window is computed in vain.
        """
        reach = (-(-self.kernel // self.stride) - 1) * self.stride
        return _Frame(self.length, self.outputs * self.stride, _PADDING, reach)


@dataclass(frozen=True)
class _Stage:
    """A layer, where its output goes, and the batch it runs on."""

    layer: _Layer
    target: _Frame
    pooling: str
    batch: int

    @property
    def pools(self) -> bool:
        return self.layer.pooling.pools

    @property
    def pairs(self) -> bool:
        """Whether two neighbouring outputs are computed at once."""
        return self.layer.stride == 1 and self.layer.outputs * self.batch % 2 == 0

    @property
    def taken(self) -> _Layer:
        """The layer as it is computed: a window makes one output, or a longer one two."""
        return replace(self.layer, kernel=self.layer.kernel + 1, stride=2) if self.pairs else self.layer


def _plan(input_size: int, kernel_sizes: Sequence[int], pooling: Pooling) -> tuple[_Layer, ...]:
    layers: list[_Layer] = []
    length = input_size
    for kernel in kernel_sizes:
        layers.append(_Layer(length, kernel, pooling.convolution_stride, pooling))
        length = layers[-1].pooled
        if length < 1:
            raise ValueError(f"{input_size} positions are too few for {kernel_sizes=} with pooling={pooling.kind!r}")
    return tuple(layers)


def _targets(layers: Sequence[_Layer]) -> list[_Frame]:
    """Where each layer's output goes: to the next layer's input, in the end to rows without gaps."""
    last = layers[-1].pooled
    return [layer.frame for layer in layers[1:]] + [_Frame(last, last)]


def _columns(x: Tensor, stage: _Stage) -> Tensor:
    """The windows of the first layer as rows [N, rows, kernel + 1], with a 1 in the end to meet the bias.

    A row of zeros makes a row of zeros: without pooling, the product with the weights already is the next
    layer's input, padding included.
    """
    layer, batch = stage.layer, stage.batch
    frame = _Frame(layer.convolved, layer.convolved) if stage.pools else stage.target
    shared = x.stride(0) == 0
    windows = F.pad(x[:1] if shared else x, (_PADDING, _PADDING)).unfold(-1, layer.kernel, layer.stride)
    columns = x.new_zeros(len(windows), batch * frame.rows + frame.tail, layer.kernel + 1)
    positions = frame.positions(columns, batch)
    positions[..., :-1] = windows
    positions[..., -1] = 1
    return columns.expand(len(x), -1, -1).contiguous()  # the batched product is slow on a shared operand


class _FirstStage(torch.autograd.Function):
    """Columns [N, rows, K] and a matrix [N, K, C] of weights and bias -> the target's buffer."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, matrix: Tensor, stage: _Stage) -> Tensor:
        ctx.stage = stage
        convolved = columns.bmm(matrix).relu_()
        rows = stage.batch * stage.target.rows
        out = _pool_stacked(convolved, stage) if stage.pools else convolved[:, :rows]
        ctx.save_for_backward(columns, matrix, convolved if stage.pools else None, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        columns, matrix, convolved, out = ctx.saved_tensors
        # The next stage made the gradient for this one alone: it can be overwritten, new memory is slower.
        pools = ctx.stage.pools
        inner = _inner_grad(grad, convolved, out, ctx.stage) if pools else _masked(grad, out, out=grad)
        rows = inner.shape[1]
        to_columns = None
        if ctx.needs_input_grad[0]:
            to_columns = F.pad(inner.bmm(matrix.mT), (0, 0, 0, columns.shape[1] - rows))
        return to_columns, columns[:, :rows].mT.bmm(inner), None


class _NextStage(torch.autograd.Function):
    """A buffer [N, B * rows, C], weights [N, C', C, kernel] and bias [N, C'] -> the target's buffer."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, weight: Tensor, bias: Tensor, stage: _Stage) -> Tensor:
        ctx.stage = stage
        matrix = weight.permute(0, 3, 2, 1).flatten(1, 2)  # [N, kernel * C, C']
        if stage.pairs:
            matrix = _paired(matrix, source.shape[2])
        windows, blocks = _windows(source, stage.taken), _blocks(matrix, source.shape[2], stage.taken)
        convolved = windows[0].bmm(blocks[0])
        for window, block in zip(windows[1:], blocks[1:], strict=True):
            convolved.baddbmm_(window, block)
        convolved = convolved.view(len(source), -1, weight.shape[1])
        if stage.pools:
            out = _pool_stacked(convolved.add_(bias.unsqueeze(1)).relu_(), stage)
        else:
            out = _rectify(convolved, bias, stage)
        ctx.save_for_backward(source, matrix, convolved if stage.pools else None, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        source, matrix, convolved, out = ctx.saved_tensors
        inner, stage = _inner_grad(grad, convolved, out, ctx.stage), ctx.stage
        taken = inner.view(len(inner), -1, matrix.shape[2])  # what one row of windows leads to
        to_weight = _weight_grad(source, taken, stage)
        to_source = _source_grad(taken, matrix, source.shape[2], stage.taken)
        return to_source.view(source.shape), to_weight, sum_rows(inner), None


def _paired(matrix: Tensor, channels: int) -> Tensor:
    """The matrix [N, (kernel + 1) * C, 2 * C'] that makes two neighbouring outputs of one longer window.

    At stride 1 the products of single windows are narrow, C by C', which the matrix library is slow at. A quarter
    of the wider one (at kernel 3) are zeros, and it is faster all the same.
    """
    return torch.cat([F.pad(matrix, (0, 0, 0, channels)), F.pad(matrix, (0, 0, channels, 0))], 2)


def _unpaired(grad: Tensor) -> Tensor:
    """Gradient [N, kernel, C, C'] of the weights in a paired matrix, from the whole's, [N, kernel + 1, C, 2C']."""
    left, right = grad.chunk(2, dim=3)
    return left[:, :-1] + right[:, 1:]


def _windows(source: Tensor, layer: _Layer) -> list[Tensor]:
    """What each of the blocks multiplies: views [N, B * outputs, taps * C], neighbours `stride` rows apart.

    A block spans at most a stride, so that the rows of a view do not overlap, as the matrix library requires.
    Views of later blocks reach into the zero rows behind the last sample.
    """
    members, rows, channels = source.shape
    strides = (source.stride(0), layer.stride * channels, 1)
    return [
        source.as_strided(
            (members, rows // layer.stride, min(layer.stride, layer.kernel - tap) * channels),
            strides,
            source.storage_offset() + tap * channels,
        )
        for tap in range(0, layer.kernel, layer.stride)
    ]


def _blocks(matrix: Tensor, channels: int, layer: _Layer) -> tuple[Tensor, ...]:
    """A matrix [N, kernel * C, C'] cut into the rows for `stride` taps at a time."""
    return matrix.split(layer.stride * channels, 1)


def _weight_grad(source: Tensor, inner: Tensor, stage: _Stage) -> Tensor:
    """Gradient of the weights [N, C', C, kernel] from `inner`, that of a row of windows, [N, rows, C' or 2 * C']."""
    members, _, channels = source.shape
    layer = stage.taken
    grad = source.new_empty(members, layer.kernel, channels, inner.shape[2])
    for taps, window in zip(grad.split(layer.stride, 1), _windows(source, layer), strict=True):
        taps.copy_(window.mT.bmm(inner).view(taps.shape))
    return (_unpaired(grad) if stage.pairs else grad).permute(0, 3, 2, 1)


def _source_grad(inner: Tensor, matrix: Tensor, channels: int, layer: _Layer) -> Tensor:
    """Gradient of the source, [N, rows, stride * C], from `inner`, that of a row of windows, [N, rows, C' or 2 * C'].

    Block q of a window lies q strides further on; what falls behind the last sample belongs to padding.
    """
    blocks = _blocks(matrix, channels, layer)
    grad = inner.bmm(blocks[0].mT)
    if layer.kernel < layer.stride:
        grad = F.pad(grad, (0, (layer.stride - layer.kernel) * channels))
    for shift, block in enumerate(blocks[1:], 1):
        grad[:, shift:, : block.shape[1]].baddbmm_(inner[:, :-shift], block.mT)
    return grad


def _rectify(convolved: Tensor, bias: Tensor, stage: _Stage) -> Tensor:
    """Bias and ReLU of [N, B * outputs, C] into the target's buffer."""
    out = stage.target.empty(convolved, stage.batch)
    positions = convolved.unflatten(1, (stage.batch, -1)).narrow(2, 0, stage.target.length)
    torch.add(positions, bias[:, None, None], out=stage.target.positions(out, stage.batch)).relu_()
    return out


def _pool_stacked(activations: Tensor, stage: _Stage) -> Tensor:
    """Pooling of [N, B * outputs, C] into the target's buffer."""
    out = stage.target.empty(activations, stage.batch)
    to = stage.target.positions(out, stage.batch)
    left, right = _pairs(activations.unflatten(1, (stage.batch, -1)), stage)
    if stage.pooling == "max":
        torch.maximum(left, right, out=to)
    elif stage.pooling == "avg":
        torch.add(left, right, out=to).mul_(0.5)
    else:
        torch.mul(left, left, out=to).addcmul_(right, right).sqrt_()  # hypot takes three times as long
    return out


def _inner_grad(grad: Tensor, activations: Tensor | None, out: Tensor, stage: _Stage) -> Tensor:
    """Gradient before ReLU and pooling, [N, B * outputs, C], from that of the target's buffer, `out`.

    `activations` are those between the two, None without pooling. Outputs that go nowhere have gradient zero.
    """
    outputs = stage.layer.outputs if activations is None else activations.shape[1] // stage.batch
    inner = grad.new_empty(len(grad), stage.batch, outputs, grad.shape[2])
    inner[:, :, stage.target.length * (_POOL if stage.pools else 1) :] = 0
    grad, out = (stage.target.positions(t, stage.batch) for t in (grad, out))
    if activations is None:
        _masked(grad, out, out=inner[:, :, : stage.target.length])
    else:
        _pool_grad(grad, out, _pairs(activations.view(inner.shape), stage), _pairs(inner, stage), stage.pooling)
    return inner.flatten(1, 2)


def _pool_grad(
    grad: Tensor, out: Tensor, values: tuple[Tensor, Tensor], inner: tuple[Tensor, Tensor], pooling: str
) -> None:
    """Write to `inner` the gradients of a pair of ReLU units, `values`, that were pooled to `out`."""
    left, right = values
    if pooling == "max":
        grad = _masked(grad, out)
        torch.sub(grad, _masked(grad, right - left, inner[1]), out=inner[0])  # of equal ones the left is the largest
    elif pooling == "avg":
        _masked(grad * 0.5, left, inner[0])
        _masked(grad * 0.5, right, inner[1])
    else:
        ratio = (grad / out).masked_fill_(out == 0, 0)
        torch.mul(ratio, left, out=inner[0])
        torch.mul(ratio, right, out=inner[1])


def _masked(grad: Tensor, activation: Tensor, out: Tensor | None = None) -> Tensor:
    """The gradient before a ReLU: `grad` where `activation` is above zero, else zero; written to `out` if given."""
    if out is None:
        return torch.ops.aten.threshold_backward(grad, activation, 0)
    return torch.ops.aten.threshold_backward.grad_input(grad, activation, 0, grad_input=out)


def _pairs(outputs: Tensor, stage: _Stage) -> tuple[Tensor, Tensor]:
    """The left and the right of each pooling window in [N, B, outputs, C], views [N, B, pooled, C]."""
    end = _POOL * stage.layer.pooled
    return outputs[:, :, 0:end:_POOL], outputs[:, :, 1:end:_POOL]
