"""Activation functions tried out: nets with new weights, on new data, each at the learning rate that suits it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from scipy.interpolate import BSpline, make_splrep
from torch import Tensor

from mnist1d.blocks import OneHotData
from mnist1d.config import RMSprop, Run
from mnist1d.draws import flat_net, task_of
from mnist1d.stack import build_member, member_generator
from mnist1d.tabulated import Jet, Nets, Rule, score

VALIDATION = 0.125
"""Share of a trial's training data that learning rates are chosen by."""
FITTED = 6.0
"""Splines are fitted from -FITTED to FITTED, and straight beyond."""
MISSED = 0.01
"""Root mean square of what they may miss."""
FARTHEST = 1e3
"""Values beyond are no activation's."""


def rule_of(run: Run, lr: Tensor) -> Rule:
    """The rule of a run's trainings at rates ``[N]``."""
    assert isinstance(run.optimizer, RMSprop)
    return Rule(lr.unsqueeze(1), run.optimizer.alpha, run.optimizer.eps)


def initial_squares(run: Run) -> float:
    """What running mean squares start at."""
    assert isinstance(run.optimizer, RMSprop)
    return run.optimizer.initial


class Trial:
    """One data set and one draw of initial weights and noise, the same for all functions that are tried with them.

    Args:
        run: whose data set, net and task it is, but for the seeds.
        number: of the trial; `task.first_trial` of the run plus this seeds all that it draws.
        device: where to train.
    """

    def __init__(self, run: Run, number: int, device: torch.device) -> None:
        self.task, self.device = task_of(run), device
        seed = self.task.first_trial(run.seed) + number
        data = run.data.model_copy(update={"seed": seed, "val_split": VALIDATION, "test_samples": None})
        self.run = run.model_copy(update={"seed": seed, "data": data})
        self.data = OneHotData([self.run] * len(self.task.trial_lrs))  # a net for each rate
        self.data.setup()
        self.data.to(device)

    def scores(self, function: Tensor, marks: Sequence[tuple[str, int]]) -> tuple[dict[str, Tensor], Tensor]:
        """How nets with `function` do at the rate that is best on validation data; ties go to the first one.

        Args:
            function: a table ``[4, 1, pieces]``.
            marks: endings of names and the numbers of steps they stand for, ascending, as `task.marks` has them.

        Returns:
            For every mark ``acc``, test accuracy, and ``lr``, the chosen rate, with its ending; and the last loss, at
            the rate chosen last. All are scalars.
        """
        rates = torch.tensor(self.task.trial_lrs, dtype=torch.float64)
        tables, rule = function.repeat(1, len(rates), 1), rule_of(self.run, rates.to(function))
        nets, noise = self._begin(marks[-1][1])
        batches = self.data.batches()
        found: dict[str, Tensor] = {}
        start = best = 0
        for ending, stop in marks:
            nets = nets.train(tables, noise[:, start:stop], map(batches, range(start, stop)), rule)
            best = int(self._accuracy(nets, tables, "val").argmax())
            found |= {f"acc{ending}": self._accuracy(nets, tables, "test")[best], f"lr{ending}": rates[best]}
            start = stop
        return found, nets.losses[-1, best]

    def _begin(self, steps: int) -> tuple[Nets, Tensor]:
        """Equal nets for all rates, and the noise of all their steps."""
        net = build_member(partial(flat_net, self.run), self.run.seed).to(self.device)
        size = len(self.task.trial_lrs)
        shape = steps, self.run.model.options["hidden"]
        noise = 2 * torch.rand(shape, generator=member_generator(self.run.seed, "noise")) - 1
        noise = (self.task.hidden_noise * noise).to(self.device)
        return Nets.new(net.repeat(size, 1), initial_squares(self.run)), noise.expand(size, *shape)

    def _accuracy(self, nets: Nets, tables: Tensor, split: str) -> Tensor:
        quiet = nets.params.new_zeros(1, self.run.model.options["hidden"])
        x, y = self.data.splits[split]
        return score(nets.params, tables, quiet, x, y)[1]


def fitted_splines(functions: Jet) -> list[BSpline]:
    """Smoothing cubic splines through N functions, each of as few pieces as miss its own by no more than MISSED.

    That of a function which ran away, so that its run has failed, means nothing.
    """
    x = np.linspace(-FITTED, FITTED, 601)
    values = functions(torch.from_numpy(x))[0].detach().cpu().numpy()
    bounded = np.nan_to_num(values).clip(-FARTHEST, FARTHEST)
    return [make_splrep(x, own, k=3, s=len(x) * MISSED**2) for own in bounded]


def of_splines(splines: Sequence[BSpline]) -> Jet:
    """N splines' values and slopes; straight beyond their ends."""

    def at(x: Tensor) -> tuple[Tensor, Tensor]:
        places = x.cpu().numpy()
        inside = places.clip(-FITTED, FITTED)
        rises = [spline.derivative()(inside) for spline in splines]
        values = [spline(inside) + rise * (places - inside) for spline, rise in zip(splines, rises, strict=True)]
        return torch.from_numpy(np.stack(values)).to(x.device), torch.from_numpy(np.stack(rises)).to(x.device)

    return at
