"""Optimisers of a stack: N separate PyTorch optimisers at once, to rounding."""

import io
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from mnist1d.optim import StackedAdam, StackedRMSprop, StackedSGD

MEMBERS = 4
SHAPES = ((5, 3), (5,), (2, 3, 3))
Rates = Sequence[float]

STACKED: dict[str, Callable[[list[Tensor], Rates, Rates], Optimizer]] = {
    "adam": lambda params, lr, decay: StackedAdam(params, lr, decay, betas=(0.8, 0.99), eps=1e-6),
    "adamw": lambda params, lr, decay: StackedAdam(params, lr, decay, decoupled=True),
    "sgd": StackedSGD,
    "momentum": lambda params, lr, decay: StackedSGD(params, lr, decay, momentum=0.9),
    "rmsprop": lambda params, lr, decay: StackedRMSprop(params, lr, decay, alpha=0.9, eps=1e-6),
}
ALONE: dict[str, Callable[[list[Tensor], float, float], Optimizer]] = {
    "adam": lambda params, lr, decay: Adam(params, lr, betas=(0.8, 0.99), eps=1e-6, weight_decay=decay),
    "adamw": lambda params, lr, decay: AdamW(params, lr, weight_decay=decay),
    "sgd": lambda params, lr, decay: SGD(params, lr, weight_decay=decay),
    "momentum": lambda params, lr, decay: SGD(params, lr, momentum=0.9, weight_decay=decay),
    "rmsprop": lambda params, lr, decay: RMSprop(params, lr, alpha=0.9, eps=1e-6, weight_decay=decay),
}
RATES: dict[str, tuple[Rates, Rates]] = {
    "equal": ([0.01] * MEMBERS, [0.0] * MEMBERS),
    "equal with decay": ([0.01] * MEMBERS, [0.1] * MEMBERS),
    "own rates": ([0.01, 0.003, 0.02, 0.0], [0.0] * MEMBERS),
    "own rates and decays": ([0.01, 0.003, 0.02, 0.01], [0.1, 0.0, 0.3, 0.2]),
    "own decays": ([0.01] * MEMBERS, [0.1, 0.0, 0.3, 0.2]),
}


def initial(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(MEMBERS, *shape, generator=generator, dtype=dtype) for shape in SHAPES]


def train(optimizer: Optimizer, params: list[Tensor], steps: range, member: int | None = None) -> None:
    """Noisy steps towards zero; every member has gradients of its own."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p, shape in zip(params, SHAPES, strict=True):
            noise = torch.randn(MEMBERS, *shape, generator=generator, dtype=torch.float64).to(p.dtype)
            p.grad = p.detach() + (noise if member is None else noise[member])
        optimizer.step()


def trained_alone(name: str, rates: tuple[Rates, Rates], dtype: torch.dtype) -> list[Tensor]:
    members = []
    for i, (lr, decay) in enumerate(zip(*rates, strict=True)):
        params = [p[i].clone().requires_grad_() for p in initial(dtype)]
        train(ALONE[name](params, lr, decay), params, range(50), i)
        members.append([p.detach() for p in params])
    return [torch.stack(same) for same in zip(*members, strict=True)]


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("name", STACKED)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)], ids=["float64", "float32"]
)
def test_fifty_steps_are_those_of_a_separate_optimiser_for_every_member(name, rates, dtype, tolerance):
    params = [p.requires_grad_() for p in initial(dtype)]
    train(STACKED[name](params, *RATES[rates]), params, range(50))
    expected = trained_alone(name, RATES[rates], dtype)
    torch.testing.assert_close([p.detach() for p in params], expected, rtol=tolerance, atol=tolerance)
    assert not torch.equal(params[0], initial(dtype)[0])


@pytest.mark.parametrize("rates", ["equal", "own rates and decays"])
@pytest.mark.parametrize("name", STACKED)
def test_a_run_resumed_from_a_saved_state_ends_bit_for_bit_where_an_uninterrupted_one_does(name, rates):
    straight = [p.requires_grad_() for p in initial()]
    train(STACKED[name](straight, *RATES[rates]), straight, range(20))

    params = [p.requires_grad_() for p in initial()]
    first = STACKED[name](params, *RATES[rates])
    train(first, params, range(12))
    file = io.BytesIO()
    torch.save({"params": [p.detach() for p in params], "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = [p.requires_grad_() for p in saved["params"]]
    second = STACKED[name](resumed, [1.0] * MEMBERS, [1.0] * MEMBERS)
    second.load_state_dict(saved["optimizer"])
    train(second, resumed, range(12, 20))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


@pytest.mark.parametrize("name", STACKED)
def test_a_member_that_diverged_leaves_the_others_untouched(name):
    ends = []
    for poison in (False, True):
        params = [p.requires_grad_() for p in initial()]
        if poison:
            params[0].data[2] = torch.nan
        train(STACKED[name](params, *RATES["own rates and decays"]), params, range(5))
        ends.append(params)
    assert ends[1][0][2].isnan().all()
    assert all(torch.equal(a[[0, 1, 3]], b[[0, 1, 3]]) for a, b in zip(*ends, strict=True))


def test_rates_may_be_a_tensor():
    params = [p.requires_grad_() for p in initial()]
    optimizer = StackedAdam(params, torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(MEMBERS))
    assert optimizer.param_groups[0]["lr"] == [1.0, 2.0, 3.0, 4.0]


def test_a_rate_changed_between_steps_counts_from_the_next_step():
    params = [p.requires_grad_() for p in initial()]
    optimizer = StackedSGD(params, [0.1] * MEMBERS, [0.0] * MEMBERS)
    optimizer.param_groups[0]["lr"] = [0.0, 0.1, 0.2, 0.3]
    train(optimizer, params, range(1))
    assert torch.equal(params[0][0], initial()[0][0])
    assert not torch.equal(params[0][1], initial()[0][1])


def test_parameters_without_a_gradient_are_left_alone():
    params = [p.requires_grad_() for p in initial()]
    optimizer = StackedAdam(params, [0.1] * MEMBERS, [0.1] * MEMBERS)
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert torch.equal(params[1], initial()[1])
    assert not torch.equal(params[0], initial()[0])


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    params = [p.requires_grad_() for p in initial()]
    optimizer = StackedSGD(params, [0.1] * MEMBERS, [0.0] * MEMBERS)

    def closure() -> Tensor:
        loss = params[0].square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == initial()[0].square().sum()
    assert torch.allclose(params[0], 0.8 * initial()[0])


@pytest.mark.parametrize(
    ("lr", "decay", "message"),
    [
        ([0.1] * 3, [0.0] * 4, "lr has 3 values"),
        ([0.1] * 4, [0.0] * 5, "weight_decay has 5 values"),
        ([0.1, -0.1, 0.1, 0.1], [0.0] * 4, "lr must not be negative"),
    ],
)
def test_rates_that_do_not_fit_the_members_are_refused(lr, decay, message):
    with pytest.raises(ValueError, match=message):
        StackedAdam([p.requires_grad_() for p in initial()], lr, decay)
