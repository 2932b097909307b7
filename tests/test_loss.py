"""The stacked loss is PyTorch's, member by member."""

import pytest
import torch
from torch.nn import functional as F

from mnist1d.loss import cross_entropy_stacked


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("shared", [True, False])
def test_every_member_has_the_loss_and_the_gradient_of_pytorchs_cross_entropy(shared, size):
    torch.manual_seed(0)
    logits = torch.randn(size, 7, 10, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(10, (7,) if shared else (size, 7))
    weights = torch.rand(size, dtype=torch.float64)
    everyones = labels.expand(size, 7)
    expected = torch.stack([F.cross_entropy(z, y) for z, y in zip(logits, everyones, strict=True)])
    loss = cross_entropy_stacked(logits, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), logits)
    (got,) = torch.autograd.grad((loss * weights).sum(), logits)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-15)


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]] * 2, requires_grad=True)
    loss = cross_entropy_stacked(logits, torch.tensor([0, 0]))
    loss.sum().backward()
    assert loss.tolist() == [1e4, 1e4]
    assert logits.grad.tolist() == [[[0.0, 0.0], [-0.5, 0.5]]] * 2


def test_a_member_that_diverged_leaves_the_others_untouched():
    logits = torch.randn(3, 5, 10)
    labels = torch.randint(10, (5,))
    expected = cross_entropy_stacked(logits, labels)
    logits[1] = torch.nan
    loss = cross_entropy_stacked(logits, labels)
    assert loss[1].isnan()
    assert torch.equal(loss[[0, 2]], expected[[0, 2]])


def test_evaluation_keeps_nothing_for_backward():
    logits = torch.randn(2, 5, 10, requires_grad=True)
    with torch.no_grad():
        assert cross_entropy_stacked(logits, torch.zeros(5, dtype=torch.int64)).grad_fn is None
