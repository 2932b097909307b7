"""Learning rates of N runs at once, learned by exact gradients through whole trainings.

The paper's metalearning of a learning rate, `metalearn-learn-rate.ipynb`.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mnist1d.blocks import OneHotData, StackData
from mnist1d.classification import evaluate
from mnist1d.config import Run
from mnist1d.config.tasks import MetalearnLr
from mnist1d.hypergradient import Training, by_rate, descend
from mnist1d.models import Shallow
from mnist1d.models.make import make_model
from mnist1d.problem import StackedProblem
from mnist1d.stack import StackedModel, build_member


class StackedMetalearnLr(StackedProblem):
    """Each step trains every net once, from the same weights on the same mini-batches, and then moves its rate.

    The rate goes down the slope of the mean loss over the training's mini-batches. Metrics: `lr`, after the step;
    `meta/loss`, that mean, and `inner/loss`, the training's last loss, both at the rate before it; and loss and
    accuracy of the nets so trained on all splits.

    Attributes:
        rate: what is learned, ``[N]``.
        initial: the nets that every training starts from.
        model: the nets as trained last.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(runs)
        members = [build_member(partial(make_model, run.model), run.seed) for run in runs]
        self.initial, self.model = StackedModel(members), StackedModel(members)
        self.rate = nn.Parameter(torch.tensor([run.optimizer.lr for run in runs]))
        self.register_buffer("outer_lr", torch.tensor([_task(run).outer_lr for run in runs]))
        self.outer_lr: Tensor
        self._task = _task(runs[0])
        self._last: dict[str, Tensor] = {}

    @classmethod
    def make_data(cls, runs: Sequence[Run]) -> StackData:
        """The data module of a stack, with one-hot labels."""
        return OneHotData(runs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain gradient descent on the rates, each by its own `task.outer_lr`, which is in the gradient."""
        return torch.optim.SGD([self.rate], lr=1.0)

    def begin(self) -> None:
        """Nothing is carried from one training to the next."""

    def train_block(self, steps: range) -> Tensor:
        """One training of every net per step, and an update of its rate; the mean losses ``[len(steps), N]``."""
        losses = [self._step() for _ in steps]
        return torch.stack(losses)

    def _step(self) -> Tensor:
        done, slope = self._train()
        self.rate.grad = self.outer_lr * slope
        self.optimizer.step()
        with torch.no_grad():
            for name, param in self.model.params.items():
                param.copy_(done.params[name])
        self._last = {"meta/loss": done.losses, "inner/loss": done.last}
        return done.losses

    def _train(self) -> tuple[Training, Tensor]:
        net = self.model.template
        assert isinstance(net, Shallow)
        initial = {name: param.detach() for name, param in self.initial.params.items()}
        with torch.no_grad():
            if not self.outer_lr.any():  # nothing moves: no derivative is needed
                done = descend(initial, self.rate, net.activation, self._mini_batches())
                return done, torch.zeros_like(self.rate)
        return by_rate(initial, self.rate, net.activation, self._mini_batches(), self._task.differentiation)

    def _mini_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.data.batches()  # from the start: the generators too
        return map(batches, range(self._task.inner_steps))

    def measure(self, step: int) -> dict[str, Tensor]:
        """See the class; empty where the schedule does not evaluate."""
        if not self.data.schedule.evaluates(step):
            return {}
        rates = {"lr": self.rate.detach().clone(), **self._last}
        return {**{name: values.double() for name, values in rates.items()}, **evaluate(self.model, self.data.measured)}

    def finals(self, member: int) -> dict[str, float]:
        """The learned rate as `lr_final`, its mean loss as `meta/loss_final`, and accuracies as for classification."""
        history = self.histories[member]
        if history.failure:
            return {}
        ends = {f"{name}_final": history.metrics[name][-1][1] for name in ("lr", "meta/loss", "inner/loss")}
        return history.final() | ends


def _task(run: Run) -> MetalearnLr:
    assert isinstance(run.task, MetalearnLr)
    return run.task
