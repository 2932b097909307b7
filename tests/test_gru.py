"""The GRU: the paper's sizes, and a hand-batched stack that equals its plain members."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist1d.models import gru
from mnist1d.models.gru import GRU

SIZES = {"input_size": 11, "num_classes": 4, "hidden": 5}


def members(count: int, dtype: torch.dtype = torch.float64, **sizes: int) -> list[GRU]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [GRU(**(sizes or SIZES)).to(dtype) for _ in range(count)]


def stack(models: list[GRU]) -> dict[str, Tensor]:
    named = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([p[name].detach() for p in named]).requires_grad_() for name in named[0]}


def batches(count: int, batch: int, dtype: torch.dtype = torch.float64, steps: int = 11) -> Tensor:
    return torch.randn(count, batch, steps, generator=torch.Generator().manual_seed(1), dtype=dtype)


def grad(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def losses(logits: Tensor) -> Tensor:
    """Mean cross-entropy against labels that differ from row to row."""
    labels = torch.arange(logits.shape[0], device=logits.device) % logits.shape[1]
    return F.cross_entropy(logits, labels)


def assert_stack_equals_members(models: list[GRU], x: Tensor, tolerance: float) -> None:
    params = stack(models)
    x = x.clone().requires_grad_()
    logits = models[0].forward_stacked(params, x)
    torch.stack([losses(member) for member in logits]).sum().backward()
    for i, model in enumerate(models):
        own_x = x[i].detach().clone().requires_grad_()
        own_logits = model(own_x)
        losses(own_logits).backward()
        torch.testing.assert_close(logits[i], own_logits, rtol=0, atol=tolerance)
        torch.testing.assert_close(grad(x)[i], grad(own_x), rtol=0, atol=tolerance)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(grad(params[name])[i], grad(parameter), rtol=0, atol=tolerance, msg=name)


def test_default_size_is_the_papers() -> None:
    assert sum(p.numel() for p in GRU().parameters()) == 5134
    assert GRU()(torch.zeros(3, 40)).shape == (3, 10)


def test_weights_are_drawn_as_pytorch_draws_them() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        ours = GRU().state_dict()
        torch.manual_seed(3)
        recurrent, linear = nn.GRU(1, 6, batch_first=True, bidirectional=True), nn.Linear(480, 10)
    for module, prefix in ((recurrent, "gru"), (linear, "linear")):
        for name, value in module.state_dict().items():
            assert torch.equal(ours[f"{prefix}.{name}"], value)


@pytest.mark.parametrize(("count", "batch"), [(1, 7), (3, 7), (3, 1)])
def test_a_stack_equals_its_members_in_logits_and_gradients(count: int, batch: int) -> None:
    assert_stack_equals_members(members(count), batches(count, batch), 1e-10)


def test_a_stack_of_the_papers_size_equals_its_members_to_float32_rounding() -> None:
    models = members(2, torch.float32, input_size=40, num_classes=10, hidden=6)
    assert_stack_equals_members(models, batches(2, 100, torch.float32, steps=40), 2e-6)


@pytest.mark.parametrize(("count", "step_size"), [(1, 3), (3, 4), (3, 12)])
def test_a_stack_that_reads_several_values_a_step_equals_its_members(count: int, step_size: int) -> None:
    models = members(count, **{**SIZES, "input_size": 12, "step_size": step_size})
    assert models[0].linear.in_features == 2 * SIZES["hidden"] * 12 // step_size
    assert_stack_equals_members(models, batches(count, 7, steps=12), 1e-10)
    params, x = stack(models), batches(count, 7, steps=12)
    with torch.no_grad():
        evaluated = models[0].forward_stacked(params, x)
    torch.testing.assert_close(evaluated, models[0].forward_stacked(params, x), rtol=0, atol=1e-12)


def test_a_step_reads_neighbours_in_order() -> None:
    model, x = members(1, **{**SIZES, "input_size": 12, "step_size": 3})[0], batches(1, 7, steps=12)[0]
    outputs, _ = model.gru(torch.stack([x[:, start : start + 3] for start in range(0, 12, 3)], 1))
    assert torch.equal(model(x), model.linear(outputs.flatten(1)))


def test_a_step_size_that_does_not_divide_the_signal_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^step_size is 5, expected a divisor of input_size=12$"):
        GRU(12, step_size=5)


@pytest.mark.parametrize("span", [1, 3, 4, 10])
def test_gradients_do_not_depend_on_how_the_steps_are_cut_into_spans(
    span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step = 2 * 2 * SIZES["hidden"] * 7
    monkeypatch.setattr(gru, "SPAN_ELEMENTS", span * one_step)
    assert_stack_equals_members(members(2), batches(2, 7), 1e-10)


def test_gradients_agree_with_finite_differences() -> None:
    models = members(2, input_size=4, num_classes=3, hidden=2)
    params = stack(models)

    def logits(x: Tensor, *values: Tensor) -> Tensor:
        return models[0].forward_stacked(dict(zip(params, values, strict=True)), x)

    assert torch.autograd.gradcheck(logits, (batches(2, 3, steps=4).requires_grad_(), *params.values()))


@pytest.mark.parametrize("samples", [1, 10, 1000])
def test_evaluation_in_pieces_gives_the_same_logits_and_keeps_no_graph(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gru, "EVALUATION_SAMPLES", samples)
    models, x = members(3), batches(3, 17)
    params = stack(models)
    with torch.no_grad():
        evaluated = models[0].forward_stacked(params, x)
    assert not evaluated.requires_grad
    torch.testing.assert_close(evaluated, models[0].forward_stacked(params, x), rtol=0, atol=1e-12)


def test_inputs_may_be_shared_or_sliced_views() -> None:
    models = members(3)
    shared = batches(1, 7).expand(3, -1, -1)
    sliced = batches(3, 20, steps=30)[:, 2:16:2, 4:15]
    assert_stack_equals_members(models, shared, 1e-10)
    params = stack(models)
    expected = models[0].forward_stacked(params, sliced.contiguous())
    assert torch.equal(models[0].forward_stacked(params, sliced), expected)


def test_a_diverged_member_leaves_the_others_alone() -> None:
    models, x = members(3), batches(3, 7)
    healthy, ill = stack(models), stack(models)
    with torch.no_grad():
        ill["gru.weight_hh_l0"][1] = torch.nan
    for params in (healthy, ill):
        models[0].forward_stacked(params, x)[[0, 2]].square().sum().backward()
    assert models[0].forward_stacked(ill, x)[1].isnan().all()
    for name in healthy:
        assert torch.equal(grad(ill[name])[[0, 2]], grad(healthy[name])[[0, 2]]), name


def test_a_second_derivative_is_refused_instead_of_wrong() -> None:
    models = members(1)
    params = stack(models)
    loss = models[0].forward_stacked(params, batches(1, 3)).square().sum()
    (first,) = torch.autograd.grad(loss, [params["gru.weight_hh_l0"]], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_stack_trains_like_its_members() -> None:
    models, x = members(3, torch.float32), batches(3, 20, torch.float32)
    params = stack(models)
    together = torch.optim.Adam(params.values(), lr=0.01)
    alone = [torch.optim.Adam(model.parameters(), lr=0.01) for model in models]
    for _ in range(20):
        together.zero_grad()
        torch.stack([losses(member) for member in models[0].forward_stacked(params, x)]).sum().backward()
        together.step()
        for model, optimizer, own in zip(models, alone, x, strict=True):
            optimizer.zero_grad()
            losses(model(own)).backward()
            optimizer.step()
    for i, model in enumerate(models):
        logits = models[0].forward_stacked(params, x)[i]
        torch.testing.assert_close(logits, model(x[i]), rtol=0, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_stack_equals_its_members_on_cuda() -> None:
    models = [model.cuda() for model in members(3)]
    assert_stack_equals_members(models, batches(3, 7).cuda(), 1e-10)
