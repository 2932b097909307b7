"""Tables of cubics and training through them: the functions met, steps by hand, gradients exact."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from mnist1d.models.activation import ACTIVATIONS
from mnist1d.models.learned import LearnedActivation, values_and_slopes
from mnist1d.optim import StackedRMSprop
from mnist1d.tabulated import REACH, Jet, Nets, Pieces, Rule, TrainingStep, as_activation, joined, split, tabulate

DOUBLE = torch.float64


def known(*names: str) -> Jet:
    functions = [ACTIVATIONS[name] for name in names]
    return lambda x: (torch.stack([f.value(x) for f in functions]), torch.stack([f.derivative(x) for f in functions]))


def learned(size: int = 2, dtype: torch.dtype = DOUBLE) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters of learned functions that bend more than new ones do, and their scales."""
    params, _ = torch.func.stack_module_state([LearnedActivation(hidden=20) for _ in range(size)])
    return {name: 2 * param.detach().to(dtype) for name, param in params.items()}, torch.linspace(0.2, 0.5, size)


def jet_of(params: dict[str, Tensor], scale: Tensor) -> Jet:
    return values_and_slopes(params, ["elu", "tanh"][: len(scale)], scale)


# -- tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_table_meets_its_function_and_both_derivatives(name: str) -> None:
    z = torch.linspace(-7.9, 7.9, 4999, dtype=DOUBLE, requires_grad=True)  # at no kink of any of them
    found = Pieces.of(tabulate(known(name), dtype=DOUBLE), z[None].detach())
    activation = ACTIVATIONS[name]
    torch.testing.assert_close(found.value()[0], activation.value(z).detach(), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.slope()[0], activation.derivative(z).detach(), rtol=0, atol=2e-6)
    slopes = activation.derivative(z)
    if slopes.requires_grad:  # else constant in pieces
        (bend,) = torch.autograd.grad(slopes.sum(), z)
        torch.testing.assert_close(found.bend()[0], bend, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["relu", "hand_fit"])
def test_kinks_and_jumps_at_tenths_and_quarters_are_exact(name: str) -> None:
    ends = torch.tensor([-2.0, -1.0, -0.25, 0.0, 0.1, 0.6], dtype=DOUBLE)
    z = torch.cat([ends - 1e-6, ends + 1e-6])
    table = as_activation(tabulate(known(name), dtype=DOUBLE))
    torch.testing.assert_close(table.value(z[None])[0], ACTIVATIONS[name].value(z), rtol=0, atol=1e-7)
    torch.testing.assert_close(table.derivative(z[None])[0], ACTIVATIONS[name].derivative(z), rtol=0, atol=1e-5)


def test_the_hand_fit_is_the_reference_s() -> None:
    z = torch.tensor([-3.0, -1.5, -0.5, 0.0, 0.5, 2.0])
    expected = torch.tensor([0.45, 0.475, -0.25, -0.75, -0.75, 1.0])  # a·x + b of the six pieces
    torch.testing.assert_close(ACTIVATIONS["hand_fit"].value(z), expected)
    assert ACTIVATIONS["hand_fit"].derivative(z).tolist() == pytest.approx([0.15, -0.25, -1.2, -0.5, 0.2, 1.2])


def test_beyond_the_grid_a_table_goes_on_straight() -> None:
    found = Pieces.of(tabulate(known("swish", "hand_fit"), dtype=DOUBLE), torch.tensor([[-40.0], [1e4]], dtype=DOUBLE))
    assert found.value()[0].item() == pytest.approx(0.0, abs=1e-4)
    assert found.value()[1].item() == pytest.approx(1.2e4 - 1.4)
    assert found.bend().abs().max() == 0


def test_every_member_reads_its_own_table_and_its_own_nan() -> None:
    table = as_activation(tabulate(known("relu", "tanh", "sine")))
    z = torch.randn(3, 4, 5)
    z[1, 0, 0], z[2, 0, 0] = torch.nan, torch.inf
    values = table.value(z)
    for row, name in enumerate(("relu", "tanh", "sine")):
        finite = z[row].isfinite()
        torch.testing.assert_close(values[row][finite], ACTIVATIONS[name].value(z[row][finite]), rtol=1e-5, atol=1e-6)
    assert values[1, 0, 0].isnan()


def test_a_looked_up_function_hands_its_slope_to_autograd() -> None:
    z = torch.randn(2, 50, dtype=DOUBLE, requires_grad=True)
    table = as_activation(tabulate(known("swish", "sine"), dtype=DOUBLE))
    (slope,) = torch.autograd.grad(table.value(z).sum(), z)
    torch.testing.assert_close(slope, table.derivative(z))


def test_a_learned_function_s_values_and_slopes_are_its_module_s() -> None:
    modules = [LearnedActivation(base, hidden=7, scale=scale).double() for base, scale in (("elu", 0.2), ("relu", 0.5))]
    params, _ = torch.func.stack_module_state(modules)
    x = torch.linspace(-3, 3, 40, dtype=DOUBLE, requires_grad=True)
    values, slopes = values_and_slopes(params, ["elu", "relu"], torch.tensor([0.2, 0.5], dtype=DOUBLE))(x)
    for row, module in enumerate(modules):
        (slope,) = torch.autograd.grad(module(x).sum(), x)
        torch.testing.assert_close(values[row], module(x))
        torch.testing.assert_close(slopes[row], slope)


# -- a step ------------------------------------------------------------------------------------------------

SIZES = {"length": 6, "hidden": 5, "classes": 4, "rows": 8}


def nets(size: int = 2, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, list[nn.Sequential]]:
    """Plain nets with one hidden layer, and the same as ``[N, P]``."""
    layers = [
        nn.Sequential(nn.Linear(SIZES["length"], SIZES["hidden"]), nn.Linear(SIZES["hidden"], SIZES["classes"])).to(
            dtype
        )
        for _ in range(size)
    ]
    return torch.stack([torch.cat([p.detach().flatten() for p in net.parameters()]) for net in layers]), layers


def batch(size: int = 2, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    y = torch.randint(SIZES["classes"], (size, SIZES["rows"]))
    x = torch.randn(size, SIZES["rows"], SIZES["length"], dtype=dtype)
    return x, nn.functional.one_hot(y, SIZES["classes"]).to(dtype)


def rule(size: int = 2, lr: float = 0.01) -> Rule:
    return Rule(torch.full((size, 1), lr, dtype=DOUBLE), alpha=0.4, eps=1e-8)


def plain_loss(net: nn.Sequential, name: str, noise: Tensor, x: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net[1](ACTIVATIONS[name].value(net[0](x)) + noise), targets)


def test_a_step_is_the_one_made_by_hand() -> None:
    names = ("swish", "tanh")
    (params, plain), (x, targets), noise = nets(), batch(), 0.1 * torch.randn(2, 1, 5, dtype=DOUBLE)
    tables, ones = tabulate(known(*names), dtype=DOUBLE), torch.ones_like(params)
    stepped, squares, losses = TrainingStep.apply(params, ones, tables, noise, (x, targets), rule())
    for n, (net, name) in enumerate(zip(plain, names, strict=True)):
        loss = plain_loss(net, name, noise[n], x[n], targets[n])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])
        expected = 0.4 * 1 + 0.6 * gradient.square()  # the mean square starts at one
        torch.testing.assert_close(losses[n], loss.detach(), rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(squares[n], expected, rtol=1e-6, atol=1e-8)
        moved = params[n] - 0.01 * gradient / (expected.sqrt() + 1e-8)
        torch.testing.assert_close(stepped[n], moved, rtol=1e-6, atol=1e-8)


def test_ten_steps_are_those_of_the_stacked_optimiser() -> None:
    (params, plain), batches = nets(), [batch() for _ in range(10)]
    still, trained = torch.zeros(2, 10, 5, dtype=DOUBLE), Nets.new(params, 1.0)
    trained = trained.train(tabulate(known("tanh", "tanh"), dtype=DOUBLE), still, batches, rule(lr=0.02))
    leaves = [
        torch.stack([p.detach() for p in same]) for same in zip(*(net.parameters() for net in plain), strict=True)
    ]
    optimizer = StackedRMSprop(leaves, [0.02] * 2, [0.0] * 2, alpha=0.4, initial=1.0)
    for x, targets in batches:
        for n, net in enumerate(plain):
            for own, leaf in zip(net.parameters(), leaves, strict=True):
                own.data.copy_(leaf[n])
            net.zero_grad()
            plain_loss(net, "tanh", torch.zeros(1), x[n], targets[n]).backward()
        for own, leaf in zip(zip(*(net.parameters() for net in plain), strict=True), leaves, strict=True):
            leaf.grad = torch.stack([p.grad for p in own if p.grad is not None])
        optimizer.step()
    torch.testing.assert_close(trained.params, joined(*leaves), rtol=1e-5, atol=1e-7)
    assert trained.losses.shape == (10, 2)


def test_nets_are_split_and_joined_in_the_order_of_their_modules() -> None:
    params, plain = nets()
    parts = split(params, SIZES["length"], SIZES["classes"])
    for n, net in enumerate(plain):
        for part, own in zip(parts, net.parameters(), strict=True):
            assert torch.equal(part[n], own)
    assert torch.equal(joined(*parts), params)


def test_the_step_s_own_way_back_is_that_of_finite_differences() -> None:
    (params, _), mini, noise = nets(), batch(), 0.1 * torch.randn(2, 1, 5, dtype=DOUBLE)
    params_and_more = [
        params,
        torch.rand_like(params) + 0.5,
        tabulate(known("swish", "tanh"), dtype=DOUBLE, per_unit=1),
    ]
    inputs = [value.detach().requires_grad_() for value in (*params_and_more, noise)]
    assert torch.autograd.gradcheck(lambda *values: TrainingStep.apply(*values, mini, rule()), inputs, atol=1e-6)


def test_a_weight_without_gradient_hands_on_none() -> None:
    (params, _), (x, targets) = nets(), batch()
    x[..., 0] = 0  # its weights never have a gradient
    leaf = params.requires_grad_()
    tables, noise = tabulate(known("tanh", "tanh"), dtype=DOUBLE), torch.zeros(2, 1, 5, dtype=DOUBLE)
    stepped, squares, losses = TrainingStep.apply(leaf, torch.zeros_like(params), tables, noise, (x, targets), rule())
    (slope,) = torch.autograd.grad(losses.sum() + stepped.sum() + squares.sum(), leaf)
    assert slope.isfinite().all()


# -- gradients by functions -----------------------------------------------------------------------------------


def outer_loss(params: dict[str, Tensor], scale: Tensor, steps: int, per_unit: int | None) -> Tensor:
    """Mean loss of a training whose activation is learned: looked up, or evaluated directly if `per_unit` is None."""
    torch.manual_seed(1)
    (weights, _), batches = nets(), [batch() for _ in range(steps)]
    noise = 0.1 * torch.randn(2, steps, 5, dtype=DOUBLE)
    if per_unit is not None:
        tables = tabulate(jet_of(params, scale), dtype=DOUBLE, per_unit=per_unit)
        return Nets.new(weights, 1.0).train(tables, noise, batches, rule(lr=0.05)).losses.mean()
    squares, losses = torch.ones_like(weights), []
    for step, mini in enumerate(batches):
        weights, squares, loss = _direct(weights, squares, jet_of(params, scale), noise[:, step : step + 1], mini)
        losses.append(loss)
    return torch.stack(losses).mean()


def _direct(weights: Tensor, squares: Tensor, jet: Jet, noise: Tensor, mini: tuple[Tensor, Tensor]) -> Sequence[Tensor]:
    """A step with autograd's own operations and the functions themselves."""
    x, targets = mini
    w1, b1, w2, b2 = split(weights, SIZES["length"], SIZES["classes"])
    z = torch.baddbmm(b1.unsqueeze(1), x, w1.mT)
    rows = [jet(z[n].flatten()) for n in range(len(z))]
    value, slope = (torch.stack([row[k][n] for n, row in enumerate(rows)]).view_as(z) for k in (0, 1))
    hidden = value + noise
    log_p = torch.baddbmm(b2.unsqueeze(1), hidden, w2.mT).log_softmax(-1)
    to_logits = (log_p.exp() - targets) / SIZES["rows"]
    to_z = to_logits.bmm(w2) * slope
    gradient = joined(to_z.mT.bmm(x), to_z.sum(1), to_logits.mT.bmm(hidden), to_logits.sum(1))
    squares = 0.4 * squares + 0.6 * gradient.square()
    return weights - 0.05 * gradient / (squares.sqrt() + 1e-8), squares, -(log_p * targets).sum((1, 2)) / SIZES["rows"]


def slopes(params: dict[str, Tensor], scale: Tensor, steps: int, per_unit: int | None) -> Tensor:
    leaves = {name: param.clone().requires_grad_() for name, param in params.items()}
    found = torch.autograd.grad(outer_loss(leaves, scale, steps, per_unit), list(leaves.values()))
    return torch.cat([slope.flatten() for slope in found])


@pytest.mark.parametrize(("per_unit", "tolerance"), [(10, 1e-3), (40, 2e-5), (80, 1e-5), (160, 2e-6)])
def test_gradients_through_tables_are_those_through_the_functions_themselves(per_unit: int, tolerance: float) -> None:
    params, scale = learned()
    direct = slopes(params, scale, 20, None)
    error = (slopes(params, scale, 20, per_unit) - direct).norm() / direct.norm()
    assert error < tolerance


def test_gradients_by_functions_are_finite_differences() -> None:
    params, scale = learned()
    slope, step = slopes(params, scale, 20, 80), 1e-5
    towards = {name: torch.randn_like(param) for name, param in params.items()}
    ends = [
        outer_loss({name: param + sign * step * towards[name] for name, param in params.items()}, scale, 20, 80)
        for sign in (1, -1)
    ]
    along = sum(
        (a * b).sum()
        for a, b in zip(
            slope.split([p.numel() for p in params.values()]), (t.flatten() for t in towards.values()), strict=True
        )
    )
    assert float(along) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_the_grid_reaches_far_beyond_where_hidden_units_are() -> None:
    assert REACH >= 16
