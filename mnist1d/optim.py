"""Adam, AdamW, SGD and RMSprop for a stack: one update of all members, each with its own rate and weight decay.

The parameters are leaves [N, ...] whose first axis is the member. The arithmetic per member is that of
`torch.optim.Adam`, `AdamW`, `SGD` and `RMSprop`, carried out by the same fused kernels where torch has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mnist1d import config

PerMember = Sequence[float] | Tensor


class _StackedOptimizer(Optimizer):
    """A fused kernel knows one rate and one decay; this adds the per-member ones around it.

    Members that agree are updated in place by one call. Where they differ, the kernel runs at rate 1 on a
    zero tensor, which leaves the negative update there, and that is added times each member's rate: two more
    passes over the parameters, far less than a call per member.
    """

    def __init__(self, params: Iterable[Tensor], lr: PerMember, weight_decay: PerMember, **options: Any) -> None:
        # `fused` in a group makes load_state_dict put the step counters on the parameters' device.
        rates = {"lr": _floats(lr), "weight_decay": _floats(weight_decay)}
        super().__init__(params, {**rates, **options, "fused": True})
        for group in self.param_groups:
            _check(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all members; returns what `closure`, if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            self._step_group(group, params, [p.grad for p in params])
        return loss

    def _step_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        states = [self.state[p] or self._begin(p) for p in params]
        lr, decay = tuple(group["lr"]), tuple(group["weight_decay"])
        if len(set(lr)) == 1 and len(set(decay)) == 1:
            self._kernel(params, grads, states, group, lr[0], decay[0])
            return
        if any(decay):
            grads = _decayed(params, grads, lr, decay, decoupled=group.get("decoupled", False))
        updates = [torch.zeros_like(p) for p in params]
        self._kernel(updates, grads, states, group, 1.0, 0.0)
        for param, update in zip(params, updates, strict=True):
            param.addcmul_(update, _column(lr, param))

    def _begin(self, param: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def _kernel(
        self,
        targets: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
        lr: float,
        weight_decay: float,
    ) -> None:
        raise NotImplementedError


class StackedAdam(_StackedOptimizer):
    """`torch.optim.Adam`, or `AdamW` when `decoupled`, for every member of a stack.

    `params` are leaves [N, ...]; `lr` and `weight_decay` hold N values. Raises ValueError when they do not.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: PerMember,
        weight_decay: PerMember,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decoupled: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay, betas=tuple(betas), eps=eps, decoupled=decoupled)

    def _begin(self, param: Tensor) -> dict[str, Tensor]:
        state = self.state[param]
        state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
        state["exp_avg"] = torch.zeros_like(param)
        state["exp_avg_sq"] = torch.zeros_like(param)
        return state

    def _kernel(
        self,
        targets: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
        lr: float,
        weight_decay: float,
    ) -> None:
        steps = [s["step"] for s in states]
        torch._foreach_add_(steps, 1)
        kernel = torch._fused_adamw_ if group["decoupled"] else torch._fused_adam_
        kernel(
            targets,
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            steps,
            lr=lr,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=weight_decay,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


class StackedSGD(_StackedOptimizer):
    """`torch.optim.SGD` with momentum for every member of a stack.

    `params` are leaves [N, ...]; `lr` and `weight_decay` hold N values. Raises ValueError when they do not.
    """

    def __init__(self, params: Iterable[Tensor], lr: PerMember, weight_decay: PerMember, momentum: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay, momentum=momentum)

    def _begin(self, param: Tensor) -> dict[str, Tensor]:
        # From a zero buffer the first step's momentum * 0 + gradient is the gradient, as torch starts.
        self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        return self.state[param]

    def _kernel(
        self,
        targets: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
        lr: float,
        weight_decay: float,
    ) -> None:
        momentum = group["momentum"]
        torch._fused_sgd_(
            targets,
            grads,
            [s["momentum_buffer"] for s in states] if momentum else [],
            weight_decay=weight_decay,
            momentum=momentum,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )


class StackedRMSprop(_StackedOptimizer):
    """`torch.optim.RMSprop` without momentum for every member of a stack; running means start at `initial`."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: PerMember,
        weight_decay: PerMember,
        alpha: float = 0.99,
        eps: float = 1e-8,
        initial: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, alpha=alpha, eps=eps, initial=initial)

    def _begin(self, param: Tensor) -> dict[str, Tensor]:
        self.state[param]["square_avg"] = torch.full_like(param, self.param_groups[0]["initial"])
        return self.state[param]

    def _kernel(
        self,
        targets: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
        lr: float,
        weight_decay: float,
    ) -> None:
        if weight_decay:
            grads = list(torch._foreach_add(grads, targets, alpha=weight_decay))
        means = [s["square_avg"] for s in states]
        torch._foreach_mul_(means, group["alpha"])
        torch._foreach_addcmul_(means, grads, grads, value=1 - group["alpha"])
        roots = torch._foreach_sqrt(means)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(targets, grads, roots, value=-lr)


def _decayed(
    params: list[Tensor],
    grads: list[Tensor],
    lr: tuple[float, ...],
    decay: tuple[float, ...],
    decoupled: bool,
) -> list[Tensor]:
    """The gradients after weight decay; decoupled decay shrinks the parameters in place instead."""
    if not decoupled:
        return [torch.addcmul(g, p, _column(decay, p)) for p, g in zip(params, grads, strict=True)]
    kept = tuple(1.0 - rate * share for rate, share in zip(lr, decay, strict=True))
    for param in params:
        param.mul_(_column(kept, param))
    return grads


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """One value per member, shaped to multiply `like` [N, ...]."""
    return _cached(values, like.dtype, like.device).view(-1, *[1] * (like.ndim - 1))


@lru_cache(maxsize=64)
def _cached(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def _floats(values: PerMember) -> list[float]:
    return [float(v) for v in values]


def _check(group: dict[str, Any]) -> None:
    members = {p.shape[0] if p.ndim else 0 for p in group["params"]}
    for name in ("lr", "weight_decay"):
        if members != {len(group[name])}:
            raise ValueError(f"{name} has {len(group[name])} values for parameters of {sorted(members)} members")
        if min(group[name]) < 0:
            raise ValueError(f"{name} must not be negative: {group[name]}")


def make_optimizer(configs: Sequence[config.Optimizer], params: Sequence[Tensor]) -> Optimizer:
    """The optimiser of a stack from its members' configs, which differ in rate and weight decay only."""
    first = configs[0]
    rates: dict[str, Any] = {
        "lr": [c.lr for c in configs],
        "weight_decay": [c.weight_decay for c in configs],
    }
    if isinstance(first, config.SGD):
        return StackedSGD(params, **rates, momentum=first.momentum)
    if isinstance(first, config.RMSprop):
        return StackedRMSprop(params, **rates, alpha=first.alpha, eps=first.eps, initial=first.initial)
    assert isinstance(first, config.Adam)
    return StackedAdam(params, **rates, betas=first.betas, eps=first.eps, decoupled=first.name == "adamw")
