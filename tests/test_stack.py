"""Stacked = alone: same initial weights and batches bit for bit, same parameters within rounding, same accuracies."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from mnist1d.blocks import StackData
from mnist1d.classification import StackedClassification, evaluate, train_steps
from mnist1d.config import Run
from mnist1d.models.make import make_model
from mnist1d.stack import StackedModel, build_member, member_generator
from tests.conftest import ROOT

MakeRun = Callable[..., Run]

ARCHITECTURES = {
    "logistic": ("model=logistic",),
    "mlp": ("model=mlp", "model.hidden=30"),
    "plain mlp": ("model=mlp", "model.hidden=30", "model.residual=false"),
    "deep mlp": ("model=mlp", "model.hidden=30", "model.layers=3", "model.activation=gelu"),
    "cnn": ("model=cnn",),
    "cnn sine": ("model=cnn", "model.channels=8", "model.activation=sine"),
    "cnn none": ("model=cnn", "model.pooling=none", "model.channels=8"),
    "cnn max": ("model=cnn", "model.pooling=max", "model.kernel_sizes=[3,3]"),
    "cnn avg": ("model=cnn", "model.pooling=avg", "model.channels=8"),
    "cnn l2": ("model=cnn", "model.pooling=l2", "model.channels=8"),
    "gru": ("model=gru",),
    "resnet": ("model=resnet", "model.channels=6", "model.blocks=2"),
    "tcn": ("model=tcn", "model.channels=6", "model.blocks=3"),
    "dilated cnn": ("model=dilated_cnn", "model.channels=6", "model.layers=3"),
    "attention": ("model=attention", "model.width=8", "model.layers=1"),
}
SMALL = ("data.num_samples=500", "data.batch_size=50", "trainer.max_steps=51", "trainer.eval_every=10")


@pytest.fixture(params=ARCHITECTURES, ids=lambda name: name.replace(" ", "-"))
def runs(request: pytest.FixtureRequest, make_run: MakeRun) -> list[Run]:
    """Four seeds of each architecture, with different rates, label noise and data seeds."""
    overrides = (*ARCHITECTURES[request.param], *SMALL, "data.batch_order=shuffled")
    values = [
        ("0", "0.01", "0", "42"),
        ("1", "0.01", "0.2", "42"),
        ("2", "0.003", "0", "7"),
        ("3", "0.001", "0.5", "8"),
    ]
    return [
        make_run(*overrides, f"seed={seed}", f"optimizer.lr={lr}", f"data.label_noise={noise}", f"data.seed={data}")
        for seed, lr, noise, data in values
    ]


class Loop:
    """A stack trained without Lightning round it."""

    def __init__(self, runs: list[Run], dtype: torch.dtype = torch.float32) -> None:
        self.data = StackData(runs)
        self.data.setup()
        self.data.splits = {name: (x.to(dtype), y) for name, (x, y) in self.data.splits.items()}
        module = StackedClassification(runs).to(dtype)
        self.model, self.optimizer = module.model, module.configure_optimizers()
        self.batches = self.data.batches()

    def train(self, steps: int) -> Tensor:
        return train_steps(self.model, self.optimizer, self.batches, range(steps))


def plain_training(run: Run, steps: int) -> nn.Module:
    """The same run as a plain PyTorch loop with torch's optimiser, in float64, on the member's batches."""
    data = StackData([run])
    data.setup()
    x, y = data.splits["train"][0][0].double(), data.splits["train"][1][0]
    model = build_member(lambda: make_model(run.model), run.seed).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=run.optimizer.lr)
    generator, size = member_generator(run.seed, "batches"), run.data.batch_size
    done = 0
    while done < steps:
        for rows in torch.randperm(len(x), generator=generator).split(size)[: steps - done]:
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            done += 1
    return model


def test_members_start_from_the_weights_of_the_plain_module(runs: list[Run]) -> None:
    stack = StackedClassification(runs).model
    for n, run in enumerate(runs):
        torch.manual_seed(run.seed)
        plain = make_model(run.model).state_dict()
        member = stack.member_state(n)
        assert member.keys() == plain.keys()
        assert all(torch.equal(member[name], plain[name]) for name in plain)


def test_members_see_the_batches_that_they_see_alone(runs: list[Run]) -> None:
    together, alone = Loop(runs).batches, [Loop([run]).batches for run in runs]
    for step in range(30):  # three epochs of ten batches
        x, y = together(step)
        for n, batches in enumerate(alone):
            x_alone, y_alone = batches(step)
            assert torch.equal(x[n], x_alone[0])
            assert torch.equal(y[n], y_alone[0])


def test_parameters_after_50_steps_equal_a_plain_loop_in_float64(runs: list[Run]) -> None:
    loop = Loop(runs, torch.float64)
    loop.train(50)
    for n, run in enumerate(runs):
        expected = plain_training(run, 50).state_dict()
        for name, value in loop.model.member_state(n).items():
            # Adam divides by root mean squares near zero, which magnifies rounding: 1e-16 becomes 1e-9
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)


def test_losses_stacked_and_alone_agree_in_float32(runs: list[Run]) -> None:
    together = Loop(runs).train(20)
    for n, run in enumerate(runs):
        torch.testing.assert_close(together[:, n], Loop([run]).train(20)[:, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "gru"])
def test_accuracies_of_20_seeds_do_not_tell_stacked_from_alone(name: str, make_run: MakeRun) -> None:
    small = ("data.num_samples=1000", "trainer.max_steps=60")
    runs = [make_run(*ARCHITECTURES[name], *small, f"seed={seed}") for seed in range(20)]
    stacked = accuracies(runs)
    alone = torch.cat([accuracies([run]) for run in runs])
    assert stacked.std() > 0  # the seeds do differ
    assert (stacked - alone).abs().mean() < 0.25 * stacked.std()
    assert stats.ks_2samp(stacked.numpy(), alone.numpy()).pvalue > 0.5


def accuracies(runs: list[Run]) -> Tensor:
    """Test accuracy after the last step, [N]."""
    loop = Loop(runs)
    loop.train(runs[0].trainer.max_steps)
    return evaluate(loop.model, loop.data.splits)["test/acc"]


def test_a_model_without_a_twin_is_stacked_by_vmap() -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    members = [build_member(Tiny, seed).eval() for seed in range(3)]
    stack = StackedModel(members).eval()
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for n, member in enumerate(members):
        torch.testing.assert_close(stack(x)[n], member(x[n]))
        member.load_state_dict(stack.member_state(n))


def test_batch_normalisation_keeps_running_statistics_per_member() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    members = [build_member(make, seed) for seed in range(3)]
    stack = StackedModel(members)
    x = torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(0))
    logits = stack(x)
    for n, member in enumerate(members):
        torch.testing.assert_close(logits[n], member(x[n]))
        torch.testing.assert_close(stack.member_state(n), dict(member.state_dict()))


class Decides(nn.Module):
    """Goes one way or the other, as its input is."""

    def forward(self, x: Tensor) -> Tensor:
        return -x if x.sum() > 0 else x


class Reads(nn.Module):
    """Torch's recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x[..., None])[0][:, -1]


REFUSED = {
    "called random operation while in randomness error mode": nn.Dropout,  # which members would share
    "data-dependent control flow": Decides,
    "Batching rule not implemented": Reads,
}


@pytest.mark.parametrize(("message", "layer"), REFUSED.items())
def test_what_vmap_cannot_do_is_refused_as_the_docs_say(message: str, layer: type[nn.Module]) -> None:
    stack = StackedModel([build_member(lambda: nn.Sequential(nn.Linear(4, 4), layer()), seed) for seed in (0, 1)])
    with pytest.raises(RuntimeError, match=message):
        stack(torch.ones(2, 5, 4))
    assert f"*{message}*" in (ROOT / "docs" / "stacking.md").read_text()


def test_building_members_leaves_the_global_generator_alone(make_run: MakeRun) -> None:
    run = make_run("model=mlp")
    before = torch.random.get_rng_state()
    first = build_member(lambda: make_model(run.model), 0).state_dict()
    again = build_member(lambda: make_model(run.model), 0).state_dict()
    other = build_member(lambda: make_model(run.model), 1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first["linear1.weight"], again["linear1.weight"])
    assert not torch.equal(first["linear1.weight"], other["linear1.weight"])


def test_member_generators_differ_by_seed_and_stream() -> None:
    draws = {
        (seed, stream): torch.rand(4, generator=member_generator(seed, stream)).tolist()
        for seed in (0, 1)
        for stream in ("batches", "samples")
    }
    assert len({tuple(values) for values in draws.values()}) == 4
    assert torch.rand(4, generator=member_generator(0, "batches")).tolist() == draws[0, "batches"]
