"""Activation functions tried out: nets with new weights, on new data, each at the learning rate that suits it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.interpolate import BSpline, make_splrep
from torch import Tensor
from torch.nn import functional as F

from mnist1d.blocks import Batches
from mnist1d.config import RMSprop, Run
from mnist1d.data import load
from mnist1d.draws import flat_net, task_of
from mnist1d.stack import member_generator
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
        number: of the trial; `task.trial_data_seed` plus this seeds all that it draws.
        device: where to train.
    """

    def __init__(self, run: Run, number: int, device: torch.device) -> None:
        self.run, self.task, self.device = run, task_of(run), device
        self.seed = self.task.trial_data_seed + number
        draw = {"seed": self.seed, "val_split": VALIDATION, "test_samples": None}
        splits = load(run.data.model_copy(update=draw))
        self.splits = {
            name: tuple(torch.from_numpy(np.array(getattr(splits, f"{name}_{part}")))[None].to(device) for part in "xy")
            for name in ("train", "val", "test")
        }

    def scores(self, functions: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """How nets with `functions` do, each at the rate that is best on validation data; ties go to the lower one.

        Args:
            functions: tables ``[4, F, pieces]``.

        Returns:
            ``acc``, test accuracy, and ``lr``, the chosen rate, after `task.trial_steps`, ``acc_long`` and ``lr_long``
            after `task.long_trial_steps`, ``[F]`` each; and the last losses ``[F]``.
        """
        rates = torch.tensor(self.task.trial_lrs, dtype=torch.float64)
        tables = functions.repeat_interleave(len(rates), 1)  # [4, F · rates, pieces]
        rule = rule_of(self.run, rates.to(functions).repeat(functions.shape[1]))
        nets, noise, batches = self._begin(tables.shape[1])
        found: dict[str, Tensor] = {}
        start = 0
        for ending, stop in self.task.marks:
            nets = nets.train(tables, noise[:, start:stop], map(batches, range(start, stop)), rule)
            best = self._accuracy(nets, tables, "val").view(-1, len(rates)).argmax(1, keepdim=True)
            test = self._accuracy(nets, tables, "test").view(-1, len(rates))
            found |= {f"acc{ending}": test.gather(1, best).squeeze(1), f"lr{ending}": rates[best.squeeze(1).cpu()]}
            start = stop
        return found, nets.losses[-1].view(-1, len(rates)).gather(1, best).squeeze(1)

    def _begin(self, size: int) -> tuple[Nets, Tensor, Batches]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = flat_net(self.run).to(self.device)
        shape = self.task.marks[-1][1], self.run.model.options["hidden"]
        noise = 2 * torch.rand(shape, generator=member_generator(self.seed, "noise")) - 1
        noise = (self.task.hidden_noise * noise).to(self.device)
        x, y = self.splits["train"]
        data, generators = self.run.data, [member_generator(self.seed, "batches")] * size
        batches = Batches(
            x,
            F.one_hot(y, self.run.model.num_classes).to(x),
            data.batch_size,
            data.batch_order == "shuffled",
            generators,
        )
        return Nets.new(net.repeat(size, 1), initial_squares(self.run)), noise.expand(size, *shape), batches

    def _accuracy(self, nets: Nets, tables: Tensor, split: str) -> Tensor:
        quiet = nets.params.new_zeros(1, self.run.model.options["hidden"])
        x, y = self.splits[split]
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
