"""A learning rate learned through whole trainings: the reference's numbers, exact slopes, divergence told."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state

from bench.steps import begun
from mnist1d.config import ConfigError, Run
from mnist1d.config.describe import choices
from mnist1d.config.schema import Architecture
from mnist1d.cost import measure_member, most_members
from mnist1d.fit import fit_once, quiet
from mnist1d.hypergradient import Differentiation, Params, Pass, Training, by_rate, descend
from mnist1d.metalearn_lr import StackedMetalearnLr
from mnist1d.models import Shallow
from mnist1d.models.activation import ACTIVATIONS, Activation
from mnist1d.plan import Stack, plan, signature
from tests.conftest import ROOT

MakeRun = Callable[..., Run]

quiet()

TASK = ("task=metalearn_lr", "model=shallow", "optimizer=sgd", "optimizer.momentum=0", "data.batch_size=50")
QUIET = ("trainer.accelerator=cpu", "trainer.threads=1", "trainer.eval_every=1")
SMALL = (*TASK, *QUIET, "data.num_samples=500", "task.inner_steps=12", "model.hidden=7", "trainer.max_steps=3")


def learned(runs: list[Run]) -> StackedMetalearnLr:
    module = fit_once(Stack(tuple(runs), tuple(range(len(runs)))), [])
    assert isinstance(module, StackedMetalearnLr)
    return module


def values(module: StackedMetalearnLr, member: int, name: str) -> list[float]:
    return [value for _, value in module.histories[member].metrics[name]]


# -- activations and the gradient by hand ----------------------------------------------------------------


def test_the_config_allows_exactly_the_activations_there_are() -> None:
    assert set(choices(Architecture.model_fields["activation"].annotation)) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_are_those_that_autograd_finds(name: str) -> None:
    activation = ACTIVATIONS[name]
    z = torch.linspace(-4, 4, 50, dtype=torch.float64, requires_grad=True)  # 0, where ReLU has none, is not in it
    (slope,) = torch.autograd.grad(activation.value(z).sum(), z)
    torch.testing.assert_close(activation.derivative(z), slope, rtol=1e-9, atol=1e-9)


def net(activation: str, size: int = 3) -> tuple[Shallow, Params]:
    members = [Shallow(6, 10, hidden=5, activation=activation).double() for _ in range(size)]
    return members[0], {name: value.detach() for name, value in stack_module_state(members)[0].items()}


def batch(size: int = 3, rows: int = 8) -> tuple[Tensor, Tensor]:
    y = torch.randint(0, 10, (size, rows))
    return torch.randn(size, rows, 6, dtype=torch.float64), torch.nn.functional.one_hot(y, 10).double()


@pytest.mark.parametrize("name", ["tanh", "elu", "swish"])
def test_the_gradient_by_hand_is_that_of_the_plain_module(name: str) -> None:
    (template, params), (x, targets) = net(name), batch()
    at = Pass.of(params, ACTIVATIONS[name], x, targets)
    for n in range(3):
        own = {key: value[n].clone().requires_grad_() for key, value in params.items()}
        loss = torch.nn.functional.cross_entropy(functional_call(template, own, (x[n],)), targets[n])
        assert float(at.loss[n]) == pytest.approx(float(loss.detach()))
        for key, slope in zip(own, torch.autograd.grad(loss, list(own.values())), strict=True):
            torch.testing.assert_close(at.gradient[key][n], slope)


# -- slopes through a training ----------------------------------------------------------------------------


Problem = tuple[Params, Activation, list[tuple[Tensor, Tensor]]]


def problem(name: str = "tanh", steps: int = 20) -> Problem:
    return net(name)[1], ACTIVATIONS[name], [batch() for _ in range(steps)]


def slope_of(problem: Problem, rate: Tensor, how: Differentiation) -> tuple[Training, Tensor]:
    params, activation, batches = problem
    return by_rate(params, rate, activation, batches, how)


@pytest.mark.parametrize("name", ["tanh", "swish", "relu", "sine"])
def test_slopes_are_finite_differences_backwards_and_forwards(name: str) -> None:
    (params, activation, batches), step = problem(name), 1e-5
    rate = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    above, below = (descend(params, rate + shift, activation, batches).losses for shift in (step, -step))
    plain = descend(params, rate, activation, batches)
    for how in ("reverse", "forward"):
        done, slope = by_rate(params, rate, activation, batches, how)  # type: ignore[arg-type]
        torch.testing.assert_close(slope, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(done.losses, plain.losses)
        torch.testing.assert_close(done.last, plain.last)
        torch.testing.assert_close(done.params, plain.params)
        assert not any(value.requires_grad for value in (done.losses, done.last, *done.params.values()))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_forward_and_reverse_agree_to_rounding(name: str) -> None:
    through, rate = problem(name, steps=200), torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)
    (_, backwards), (_, alongside) = slope_of(through, rate, "reverse"), slope_of(through, rate, "forward")
    torch.testing.assert_close(backwards, alongside, rtol=1e-9, atol=1e-12)


GROWTH = """
from pathlib import Path
import torch
from tests.test_metalearn_lr import batch, net
from mnist1d.hypergradient import by_rate
from mnist1d.models.activation import ACTIVATIONS

torch.set_num_threads(1)
_, params = net("tanh", size=200)
mini, rate = batch(200), torch.full((200,), 0.1, dtype=torch.float64)

def peak(how, steps):
    by_rate(params, rate, ACTIVATIONS["tanh"], (mini for _ in range(steps)), how)
    # not ru_maxrss, which a process inherits from the one that started it
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

first = peak("forward", 50)
print(peak("forward", 2000) - first, peak("reverse", 400) - first)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_the_training_forwards() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], cwd=ROOT, capture_output=True, text=True, check=True)
    forward, reverse = map(float, done.stdout.split())  # MiB that the peak grew by
    assert forward < 8
    assert reverse > 100  # so many steps do weigh something


def test_a_training_differentiated_in_reverse_counts_when_stacks_are_cut(make_run: MakeRun) -> None:
    runs = {how: make_run(*TASK, *QUIET, f"task.differentiation={how}") for how in ("forward", "reverse")}
    small, large = (most_members([run])[signature(run)] for run in runs.values())
    assert small > large
    held = measured_graph(runs["reverse"])
    assert measure_member(runs["reverse"]).unrolled == pytest.approx(held, rel=0.3)


def measured_graph(run: Run) -> int:
    """Bytes that autograd keeps of one member's training, storages counted once."""
    alive: list[Tensor] = []  # or their places are used again

    def note(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        return tensor

    module = begun([run])
    known = {x.untyped_storage().data_ptr() for x in module.data.training}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module.train_block(range(1))
    storages = {storage.data_ptr(): storage.nbytes() for storage in map(Tensor.untyped_storage, alive)}
    return sum(size for pointer, size in storages.items() if pointer not in known)


# -- the reference's numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reverse", "forward"])
def test_the_first_steps_are_those_of_the_reference(make_run: MakeRun, how: str) -> None:
    common = (*TASK, *QUIET, "trainer.max_steps=4", f"task.differentiation={how}")
    module = learned([make_run(*common, f"optimizer.lr={lr}") for lr in (1.5, 0.15)])
    printed = {0: (1.46445, 0.39184), 3: (1.25875, 0.49092)}  # metalearn-learn-rate.ipynb, after these outer steps
    for step, rates in printed.items():
        for member, rate in enumerate(rates):
            assert values(module, member, "lr")[step] == pytest.approx(rate, abs=1e-5)
    assert values(module, 0, "meta/loss")[3] == pytest.approx(1.808, abs=1e-3)
    assert values(module, 1, "inner/loss")[3] == pytest.approx(1.555, abs=1e-3)


# -- as a task --------------------------------------------------------------------------------------------


def test_members_of_a_stack_learn_what_they_would_alone(make_run: MakeRun) -> None:
    asked = (["seed=1", "optimizer.lr=0.5"], ["seed=2", "optimizer.lr=1.0", "task.outer_lr=0.1"], ["data.seed=7"])
    runs = [make_run(*SMALL, *own) for own in asked]
    assert len(plan(runs)) == 1
    together = learned(runs)
    for n, run in enumerate(runs):
        alone = learned([run])
        for name in ("lr", "meta/loss", "test/loss"):
            assert values(together, n, name) == pytest.approx(values(alone, 0, name), rel=1e-4)
        assert together.finals(n).keys() == {
            *("test/acc_final", "test/acc_best", "lr_final", "meta/loss_final", "inner/loss_final")
        }
        assert together.finals(n)["lr_final"] == values(together, n, "lr")[-1]


def test_every_training_starts_from_the_same_weights_and_batches(make_run: MakeRun) -> None:
    still = learned([make_run(*SMALL, "task.outer_lr=0", "data.batch_order=shuffled")])
    assert len(set(values(still, 0, "meta/loss"))) == 1
    assert values(still, 0, "lr") == pytest.approx([0.01] * 3)


def test_a_fixed_rate_is_trained_as_a_learned_one_before_its_first_step(make_run: MakeRun) -> None:
    fixed, moved = (learned([make_run(*SMALL, f"task.outer_lr={rate}")]) for rate in (0, 0.3))
    assert values(fixed, 0, "meta/loss")[0] == pytest.approx(values(moved, 0, "meta/loss")[0], rel=1e-5)


def test_the_kept_weights_are_those_of_the_last_training(make_run: MakeRun) -> None:
    run = make_run(*SMALL, "task.outer_lr=0", "optimizer.lr=0.3")
    plain = make_run(
        *("model=shallow", "model.hidden=7", "optimizer=sgd", "optimizer.momentum=0", "optimizer.lr=0.3"),
        *("data.batch_size=50", "data.num_samples=500", "trainer.max_steps=12", *QUIET),
    )
    ours, theirs = learned([run]).member_state(0), fit_once(Stack((plain,), (0,)), []).member_state(0)
    for name, weights in theirs.items():
        torch.testing.assert_close(ours[name], weights, rtol=1e-4, atol=1e-5)


def test_a_rate_that_runs_away_fails_alone_with_its_step(make_run: MakeRun) -> None:
    runs = [
        make_run(*SMALL, f"task.outer_lr={rate}", "trainer.max_steps=6", "optimizer.lr=0.3") for rate in (1e38, 0.1)
    ]
    module = learned(runs)
    assert module.histories[1].failure is None
    reason = module.histories[0].failure
    assert reason is not None
    assert "at step 1" in reason
    assert module.finals(0) == {}


def test_what_the_task_cannot_do_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError) as refused:
        make_run("task=metalearn_lr", "optimizer=sgd", "data.stream=true")
    assert str(refused.value).splitlines()[1:] == [
        "  model.name=mlp      has no gradient written out, which task=metalearn_lr needs; allowed: shallow",
        "  optimizer.name=sgd  task=metalearn_lr learns the rate of plain gradient descent; "
        "allowed: sgd with momentum and weight_decay 0",
        "  data.stream=true    task=metalearn_lr trains on the same samples again and again; allowed: false",
    ]
