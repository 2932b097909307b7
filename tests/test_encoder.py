"""The encoder has the paper's layers and sizes, and its hand-batched twin computes the same."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state

from mnist1d.models import CNN, Encoder

TWINS: dict[str, Callable[[], Encoder]] = {
    "paper": lambda: Encoder(channels=4),
    "no projector": lambda: Encoder(channels=4, projector_depth=0),
    "one layer": lambda: Encoder(channels=3, projector_depth=1),
    "deep": lambda: Encoder(channels=3, projector_depth=4, projector_width=9, output_size=5),
    "heads": lambda: Encoder(channels=3, projector_width=9, output_size=5, heads=3),
    "heads of one layer": lambda: Encoder(channels=3, projector_depth=1, output_size=5, heads=2),
    "pooled": lambda: Encoder(channels=3, kernel_sizes=(3, 3), pooling="max"),
    "single convolution": lambda: Encoder(channels=3, kernel_sizes=(5,), projector_depth=0),
}


@pytest.mark.parametrize(("depth", "parameters"), [(0, 3_950), (2, 21_716), (4, 53_216)])
def test_the_three_variants_of_the_paper_have_their_number_of_parameters(depth, parameters):
    assert sum(p.numel() for p in Encoder(projector_depth=depth).parameters()) == parameters


@pytest.mark.parametrize(
    ("depth", "names", "features"),
    [
        (0, "h1 h2 h3", [475, 250, 125]),
        (1, "h1 h2 h3 p1", [475, 250, 125, 16]),
        (2, "h1 h2 h3 p1 p2", [475, 250, 125, 125, 16]),
        (4, "h1 h2 h3 p1 p2 p3 p4", [475, 250, 125, 125, 125, 125, 16]),
    ],
)
def test_every_layer_has_its_name_and_its_features(depth, names, features):
    encoder = Encoder(projector_depth=depth)
    assert encoder.names == names.split()
    assert [layer.shape for layer in encoder.layers(torch.randn(7, 40))] == [(7, width) for width in features]


def test_layers_are_taken_after_the_relu_but_the_last_of_a_projector():
    torch.manual_seed(0)
    encoder, x = Encoder(), torch.randn(50, 40)
    *inner, output = encoder.layers(x)
    h3 = encoder.convs(x)
    assert all(layer.min() == 0 for layer in inner)
    assert output.min() < 0
    assert torch.equal(inner[2], torch.cat([h3[:, channel] for channel in range(25)], 1)), "channel by channel"
    assert torch.equal(inner[3], encoder.projector[0](inner[2]).relu())
    assert torch.equal(output, encoder.projector[1](inner[3]))
    assert torch.equal(output, encoder(x))


def test_heads_are_projectors_side_by_side_on_the_same_convolutions():
    torch.manual_seed(2)
    both, x = Encoder(heads=2, output_size=7), torch.randn(4, 40)
    torch.manual_seed(2)
    first = Encoder(output_size=7)  # draws the convolutions and the first head alike
    assert both.names == first.names == ["h1", "h2", "h3", "p1", "p2"]
    layers = both.layers(x)
    assert [layer.shape[1] for layer in layers] == [475, 250, 125, 250, 14]
    for ours, theirs in zip(layers, first.layers(x), strict=True):
        assert torch.equal(ours[:, : theirs.shape[1]], theirs)
    second = both.projector[3](both.projector[2](layers[2]).relu())
    assert torch.equal(layers[-1][:, 7:], second)
    assert not torch.allclose(second, layers[-1][:, :7])


def test_initial_weights_are_those_of_pytorchs_layers_drawn_in_order():
    torch.manual_seed(3)
    drawn = list(Encoder().parameters())
    torch.manual_seed(3)
    convs = [nn.Conv1d(1, 25, 5), nn.Conv1d(25, 25, 3), nn.Conv1d(25, 25, 3)]
    expected = [p for layer in [*convs, nn.Linear(125, 125), nn.Linear(125, 16)] for p in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_its_convolutions_are_the_cnns():
    torch.manual_seed(1)
    cnn = CNN()
    torch.manual_seed(1)
    encoder = Encoder()
    x = torch.randn(3, 40)
    assert torch.equal(encoder.layers(x)[2] @ cnn.linear.weight.T + cnn.linear.bias, cnn(x))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", TWINS)
def test_the_hand_batched_twin_has_the_values_and_gradients_of_the_plain_modules(name, size):
    torch.manual_seed(0)
    members = [TWINS[name]().double() for _ in range(size)]
    params = {key: p.detach().requires_grad_() for key, p in stack_module_state(members)[0].items()}
    x = torch.randn(size, 8, 40, dtype=torch.float64)
    plain = torch.stack(
        [functional_call(members[0], {key: p[i] for key, p in params.items()}, (x[i],)) for i in range(size)]
    )
    twin = members[0].forward_stacked(params, x)
    torch.testing.assert_close(twin, plain, rtol=1e-12, atol=1e-13)
    weights = torch.randn_like(plain)
    expected = torch.autograd.grad((plain * weights).sum(), list(params.values()))
    got = torch.autograd.grad((twin * weights).sum(), list(params.values()))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
