"""Every architecture has the paper's number of parameters, and its hand-batched twin computes the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from mnist1d.models import CNN, GRU, MLP, TCN, Attention, DilatedCNN, Logistic, ResNet
from mnist1d.models.activation import Activation
from mnist1d.models.cnn import Pooling
from mnist1d.models.convolution import Geometry, centred, stacked_conv, stacked_signal_conv
from mnist1d.models.dropout import Dropout
from mnist1d.models.linear import stacked_linear
from mnist1d.tabulated import as_activation, tabulate

TABLE = tabulate(lambda z: (z.cos()[None] + 1, -z.sin()[None]), dtype=torch.float64)
"""Neither 0 nor straight at 0, where padding lies."""
TWINS: dict[str, Callable[[], nn.Module]] = {
    "logistic": Logistic,
    "mlp residual": lambda: MLP(hidden=7),
    "mlp plain": lambda: MLP(hidden=7, residual=False),
    "mlp one layer": lambda: MLP(hidden=7, layers=1),
    "mlp three layers": lambda: MLP(hidden=7, layers=3, activation="hand_fit"),
    "mlp three plain layers": lambda: MLP(hidden=7, layers=3, residual=False, activation="sine"),
    "mlp table": lambda: MLP(hidden=7, activation=as_activation(TABLE)),
    "cnn of the paper": lambda: CNN(channels=4),
    "cnn odd length": lambda: CNN(39, 3, channels=3, kernel_sizes=(4, 2, 5)),
    "cnn one layer": lambda: CNN(channels=2, kernel_sizes=(2,)),
    "cnn kernel below stride": lambda: CNN(channels=2, kernel_sizes=(1, 1, 3)),
    "cnn none": lambda: CNN(channels=3, kernel_sizes=(3, 3), pooling="none"),
    "cnn max": lambda: CNN(channels=3, kernel_sizes=(3, 3), pooling="max"),
    "cnn avg": lambda: CNN(channels=3, kernel_sizes=(3, 3), pooling="avg"),
    "cnn l2": lambda: CNN(channels=3, kernel_sizes=(3, 3), pooling="l2"),
    "cnn max odd lengths": lambda: CNN(39, channels=3, kernel_sizes=(5, 3, 3), pooling="max"),
    "cnn avg odd lengths": lambda: CNN(39, channels=3, kernel_sizes=(5, 3, 3), pooling="avg"),
    "cnn l2 odd lengths": lambda: CNN(39, channels=3, kernel_sizes=(5, 3, 3), pooling="l2"),
    "cnn gelu": lambda: CNN(channels=4, activation="gelu"),
    "cnn table odd length": lambda: CNN(39, channels=3, kernel_sizes=(4, 2, 5), activation=as_activation(TABLE)),
    "cnn stride 3": lambda: CNN(channels=3, kernel_sizes=(3, 3), window=3),
    "cnn max overlapping": lambda: CNN(channels=3, kernel_sizes=(3, 3), pooling="max", window=3, pool_stride=2),
    "cnn l2 window 4": lambda: CNN(channels=3, kernel_sizes=(3, 3), pooling="l2", window=4),
    "cnn blur": lambda: CNN(channels=3, kernel_sizes=(5, 3, 3), pooling="blur"),
    "cnn max blur odd length": lambda: CNN(39, channels=3, kernel_sizes=(3, 3), pooling="max_blur", window=3),
    "cnn none sine": lambda: CNN(channels=3, kernel_sizes=(3, 3), pooling="none", activation="sine"),
    "cnn max elu odd lengths": lambda: CNN(39, channels=3, pooling="max", activation="elu"),
    "cnn avg hand fit": lambda: CNN(channels=3, pooling="avg", activation="hand_fit"),
    "cnn l2 tanh": lambda: CNN(channels=3, pooling="l2", activation="tanh"),
    "resnet": lambda: ResNet(channels=4),
    "resnet odd length": lambda: ResNet(39, 3, channels=3, blocks=3, kernel_size=5),
    "resnet of more blocks than halvings": lambda: ResNet(channels=5, blocks=7, kernel_size=1),
    "tcn": lambda: TCN(channels=4),
    "tcn odd length": lambda: TCN(39, 3, channels=3, blocks=6, kernel_size=4),
    "tcn one block": lambda: TCN(channels=3, blocks=1, kernel_size=2),
    "dilated cnn": lambda: DilatedCNN(channels=4),
    "dilated cnn odd length": lambda: DilatedCNN(39, 3, channels=3, layers=6, kernel_size=5),
    "dilated cnn one layer": lambda: DilatedCNN(channels=3, layers=1),
}
LENGTHS = {name: 39 if "odd" in name else 40 for name in TWINS}


def stack(make: Callable[[], nn.Module], size: int) -> tuple[nn.Module, dict[str, Tensor]]:
    members = [make().double() for _ in range(size)]
    return members[0], {k: p.detach().requires_grad_() for k, p in stack_module_state(members)[0].items()}


def one_by_one(model: nn.Module, params: dict[str, Tensor], x: Tensor) -> Tensor:
    members = [{name: p[i] for name, p in params.items()} for i in range(len(x))]
    return torch.stack([functional_call(model, own, (x[i],)) for i, own in enumerate(members)])


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_networks_of_the_classification_experiment_have_their_number_of_parameters():
    counts = {type(m).__name__: parameters(m) for m in (Logistic(), MLP(), CNN(), GRU())}
    assert counts == {"Logistic": 410, "MLP": 15_210, "CNN": 5_210, "GRU": 5_134}


def test_the_later_networks_have_the_number_of_parameters_that_their_layers_add_up_to():
    def conv(fan_in: int, channels: int, kernel: int = 3) -> int:
        return (fan_in * kernel + 1) * channels

    assert parameters(ResNet()) == conv(1, 32) + 8 * 3 * 32**2 + 9 * 64 + 330 == 25_610
    assert parameters(TCN()) == conv(1, 64) + 7 * conv(64, 64) + conv(1, 64, 1) + 650 == 87_498
    assert parameters(DilatedCNN()) == conv(1, 32) + 4 * conv(32, 32) + 12_810 == 25_354
    layer = 4 * 32 * 33 + 33 * 64 + 65 * 32 + 2 * 64
    assert parameters(Attention()) == conv(1, 32, 5) + 20 * 32 + 3 * layer + 64 + 330 == 26_858


@pytest.mark.parametrize("width", [2, 47, 100, 300])
def test_the_networks_of_double_descent_have_their_number_of_parameters(width):
    assert parameters(MLP(hidden=width, residual=False)) == width**2 + 52 * width + 10
    assert parameters(CNN(channels=width)) == 6 * width**2 + 58 * width + 10


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("none", 9_310), ("stride", 3_310), ("max", 3_310), ("avg", 3_310), ("l2", 3_310)],
)
def test_the_networks_of_the_pooling_study_have_their_number_of_parameters(pooling, expected):
    assert parameters(CNN(channels=20, kernel_sizes=(3, 3), pooling=pooling)) == expected


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_a_hidden_layer_of_an_mlp_has_its_square_of_parameters(layers):
    assert parameters(MLP(hidden=30, layers=layers)) == 41 * 30 + (layers - 1) * 31 * 30 + 310


def test_initial_weights_are_those_of_pytorchs_layers_drawn_in_order():
    torch.manual_seed(3)
    models = [Logistic(), MLP(), CNN(), MLP(hidden=9, layers=3)]
    torch.manual_seed(3)
    layers = [nn.Linear(40, 10), nn.Linear(40, 100), nn.Linear(100, 100), nn.Linear(100, 10)]
    layers += [nn.Conv1d(1, 25, 5), nn.Conv1d(25, 25, 3), nn.Conv1d(25, 25, 3), nn.Linear(125, 10)]
    layers += [nn.Linear(40, 9), nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 10)]
    drawn = [p for m in models for p in m.parameters()]
    expected = [p for layer in layers for p in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


@pytest.mark.parametrize(("size", "batch"), [(1, 1), (3, 7), (20, 5)])
@pytest.mark.parametrize("name", TWINS)
def test_the_hand_batched_twin_has_the_values_and_gradients_of_the_plain_modules(name, size, batch):
    torch.manual_seed(0)
    model, params = stack(TWINS[name], size)
    x = torch.randn(size, batch, LENGTHS[name], dtype=torch.float64, requires_grad=True)
    expected = one_by_one(model, params, x)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), [x, *params.values()])
    logits = model.forward_stacked(params, x)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad((logits * weights).sum(), [x, *params.values()])
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", TWINS)
def test_the_twin_takes_a_slice_of_data_that_all_members_share(name):
    torch.manual_seed(0)
    model, params = stack(TWINS[name], 3)
    data = torch.randn(20, LENGTHS[name], dtype=torch.float64)
    shared = data.expand(3, -1, -1)[:, 5:12]
    expected = one_by_one(model, params, shared)
    torch.testing.assert_close(model.forward_stacked(params, shared), expected, rtol=1e-12, atol=1e-12)


def test_the_linear_layer_of_a_stack_can_be_differentiated_twice():
    shapes = ((2, 3, 4), (2, 5, 4), (2, 5))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(stacked_linear, inputs)
    assert torch.autograd.gradgradcheck(stacked_linear, inputs)


@pytest.mark.parametrize("name", ["cnn of the paper", "cnn l2"])
def test_many_samples_are_evaluated_in_chunks_with_the_same_result(name):
    torch.manual_seed(0)
    model, params = stack(TWINS[name], 3)
    x = torch.randn(3, 20_001, LENGTHS[name], dtype=torch.float64)
    with torch.no_grad():
        logits = model.forward_stacked(params, x)
        torch.testing.assert_close(logits, one_by_one(model, params, x), rtol=1e-12, atol=1e-12)


def test_the_residual_connection_carries_the_first_hidden_layer_past_the_second():
    x = torch.randn(4, 40)
    for residual in (True, False):
        model = MLP(hidden=5, residual=residual)
        nn.init.zeros_(model.linear2.weight)
        nn.init.constant_(model.linear2.bias, -1.0)
        first = model.linear1(x).relu()
        torch.testing.assert_close(model(x), model.linear3(first if residual else torch.zeros(4, 5)))


def test_every_hidden_layer_but_the_first_is_added_to_its_input():
    model, x = MLP(hidden=5, layers=3, activation="sine"), torch.randn(4, 40)
    first = model.linear1(x).sin()
    second = first + model.linear2(first).sin()
    torch.testing.assert_close(model(x), model.linear4(second + model.linear3(second).sin()))


def test_relu_by_another_road_gives_the_same_convolutions():
    torch.manual_seed(0)
    model, params = stack(lambda: CNN(channels=4), 3)
    other = CNN(channels=4, activation=Activation(torch.relu, torch.relu))
    x = torch.randn(3, 7, 40, dtype=torch.float64)
    torch.testing.assert_close(other.forward_stacked(params, x), model.forward_stacked(params, x))


def test_an_unknown_activation_is_refused():
    for make in (MLP, CNN):
        with pytest.raises(KeyError, match="relo"):
            make(activation="relo")


def test_pooling_takes_the_maximum_the_mean_and_the_root_of_the_sum_of_squares():
    x = torch.tensor([[3.0, 4.0, 0.0, 1.0]])
    for pooling, expected in (("max", [4.0, 1.0]), ("avg", [3.5, 0.5]), ("l2", [5.0, 1.0])):
        model = CNN(4, 2, channels=1, kernel_sizes=(3,), pooling=pooling)
        model.convs[0].weight.data = torch.tensor([[[0.0, 1.0, 0.0]]])
        nn.init.zeros_(model.convs[0].bias)
        model.linear.weight.data, model.linear.bias.data = torch.eye(2), torch.zeros(2)
        torch.testing.assert_close(model(x), torch.tensor([expected]))


def test_windows_overlap_and_blurs_are_binomial_with_their_ends_repeated():
    x = torch.tensor([[[1.0, 0.0, 0.0, 4.0, 8.0]]])
    assert Pooling("max", 3, 2)(x).tolist() == [[[1, 8]]]
    assert Pooling("avg", 3, 1)(x).tolist() == [[pytest.approx([1 / 3, 4 / 3, 4])]]
    assert Pooling("blur", 2)(x).tolist() == [[[0.75, 1, 7]]]  # 1, 2, 1 of 1 1 0, 0 0 4 and 4 8 8
    assert Pooling("blur", 3)(x).tolist() == [[[0.5, 5.5]]]  # 1, 3, 3, 1 of 1 1 0 0 and 0 4 8 8
    assert Pooling("max_blur", 2)(x).tolist() == [[[0.75, 4]]]  # 1, 2, 1 of 1 1 0 and 0 4 8


def test_dropout_leaves_out_its_share_and_keeps_the_sum():
    dropout, x = Dropout(0.25), torch.ones(2, 1000, 20)
    assert dropout.stacked(x, training=False) is x
    with pytest.raises(RuntimeError, match="2 members with dropout need as many generators, not 0"):
        dropout.stacked(x, training=True)
    dropout.generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    dropped = dropout.stacked(x, training=True)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert not torch.equal(dropped[0], dropped[1])
    assert (dropout(x, training=True) == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert Dropout(0).stacked(x, training=True) is x


def test_l2_pooling_of_an_all_zero_window_has_zero_gradient():
    model, params = stack(lambda: CNN(channels=2, kernel_sizes=(3, 3), pooling="l2"), 1)
    x = torch.zeros(1, 3, 40, dtype=torch.float64)
    with torch.no_grad():
        params["convs.0.bias"].zero_()
        params["convs.1.bias"].zero_()
    for logits in (model.forward_stacked(params, x), one_by_one(model, params, x)):
        grads = torch.autograd.grad(logits.sum(), [p for name, p in params.items() if "convs" in name])
        assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_a_member_that_diverged_leaves_the_others_untouched():
    torch.manual_seed(0)
    for name in ("mlp residual", "cnn of the paper", "cnn max", "resnet", "tcn", "dilated cnn"):
        model, params = stack(TWINS[name], 3)
        x = torch.randn(3, 6, 40, dtype=torch.float64)
        expected = torch.autograd.grad(model.forward_stacked(params, x).sum(), list(params.values()))
        broken = {k: p.detach().clone().requires_grad_() for k, p in params.items()}
        for p in broken.values():
            p.data[1] = torch.nan
        got = torch.autograd.grad(model.forward_stacked(broken, x).sum(), list(broken.values()))
        assert all(torch.equal(g[[0, 2]], e[[0, 2]]) for g, e in zip(got, expected, strict=True))


def test_wrong_options_of_the_convolutional_network_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="none, stride, max, avg, l2"):
        CNN(pooling="mean")
    with pytest.raises(ValueError, match="3 positions are too few"):
        CNN(3, kernel_sizes=(3, 3), pooling="max")


GEOMETRIES = [centred(3), centred(3, 2), centred(5, 3), centred(5, 1, 2), centred(1, 2), centred(3, 1, 16)]
GEOMETRIES += [Geometry(3, 1, 4, 8), Geometry(4, 2, 1, 3), Geometry(3), Geometry(3, 7), Geometry(2, 1, 50, 50)]


@pytest.mark.parametrize("length", [1, 2, 7, 12])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_stacked_convolution_is_pytorchs_member_by_member(geometry, length):
    torch.manual_seed(0)
    behind = (geometry.kernel - 1) * geometry.dilation - geometry.lead
    for channels, convolve in ((1, stacked_signal_conv), (4, stacked_conv)):
        shapes = ((3, 5, channels, length), (3, 6, channels, geometry.kernel), (3, 6))
        x, weight, bias = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
        padded = F.pad(x, (geometry.lead, behind))
        options = {"stride": geometry.stride, "dilation": geometry.dilation}
        expected = torch.stack([F.conv1d(*own, **options) for own in zip(padded, weight, bias, strict=True)])
        own_layout = x.squeeze(2) if channels == 1 else x.permute(0, 3, 1, 2)
        got = convolve(own_layout, weight, bias, geometry).permute(0, 2, 3, 1)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        factors = torch.randn_like(expected)
        grads = [torch.autograd.grad((out * factors).sum(), [x, weight, bias]) for out in (got, expected)]
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [ResNet, TCN, DilatedCNN, Attention])
def test_logits_of_a_sample_depend_neither_on_its_batch_nor_on_the_mode(make):
    torch.manual_seed(0)
    model, x = make().double(), torch.randn(6, 40, dtype=torch.float64)
    expected = model(x)
    torch.testing.assert_close(model(x[2:3]), expected[2:3])
    torch.testing.assert_close(model.eval()(x), expected)
    assert not list(model.buffers())


def test_a_temporal_network_is_causal_and_sees_as_far_back_as_it_says():
    torch.manual_seed(0)
    model, x = TCN(blocks=2, kernel_size=3).double(), torch.randn(1, 40, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(model(x).sum(), [x])
    assert grad[0, -13:].count_nonzero() == 13  # 1 + 2 * 2 * (1 + 2)
    assert not grad[0, :-13].any()


def test_wrong_options_of_the_later_networks_are_refused():
    for make in (ResNet, DilatedCNN, Attention):
        with pytest.raises(ValueError, match="kernel_size=4 is even"):
            make(kernel_size=4)
    with pytest.raises(ValueError, match=r"a dilation of 64 \(blocks=7\) reaches past 40 positions"):
        TCN(blocks=7)
    with pytest.raises(ValueError, match=r"a dilation of 64 \(layers=7\) reaches past 40 positions"):
        DilatedCNN(layers=7)
    with pytest.raises(ValueError, match="heads=5 do not divide width=32"):
        Attention(heads=5)
