"""Lottery tickets of N runs at once: rounds of pruning, rewinding and training, then the tickets on other data.

The protocol is the paper's `lottery-tickets.ipynb`; where the paper and its code differ, the config says which.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from mnist1d.blocks import Batches, Schedule, StackData, StreamBatches
from mnist1d.classification import evaluate, train_steps
from mnist1d.config import Run
from mnist1d.config.tasks import FOLLOW_UP_WINDOW, Lottery
from mnist1d.problem import StackedProblem
from mnist1d.pruning import Layout, adjacency, kept, shuffled, sparsities
from mnist1d.reuse import make_member
from mnist1d.stack import StackedModel, build_member, member_generator

FEATURES: dict[str, dict[str, object]] = {
    "fresh": {},
    "reversed": {"feature_order": "reversed"},
    "shuffled": {"shuffle_features": True, "feature_seed": 0},
    "half_swapped": {"feature_order": "half_swapped"},
    "chunk_shuffled": {"feature_order": "chunk_shuffled"},
    "noisy": {"iid_noise_scale": 0.2},
    "window_zeroed": {"zero_window": FOLLOW_UP_WINDOW},
    "random_labels": {"label_noise": 1.0, "label_noise_mode": "redraw"},
}
"""What a follow-up does to its data, mostly to the order of the features, as keys of the config's data section."""


def lottery(run: Run) -> Lottery:
    """The task section of a lottery run."""
    assert isinstance(run.task, Lottery)
    return run.task


# -- which step is what ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """One training from a fresh optimiser: a round of the search, or a follow-up.

    Attributes:
        start: its first step, of all steps of the run.
        schedule: its steps, counted from 0.
        init: which weights it starts from, as `task.follow_up_inits` names them.
        round: number of the round, from 0; None for a follow-up.
        data: name of a follow-up's data; None for a round.
        marks: numbers of finished steps at which a block must end for the weights to be taken.
    """

    start: int
    schedule: Schedule
    init: str = "rewound"
    round: int | None = None
    data: str | None = None
    marks: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What the metrics of a follow-up begin with."""
        return f"{self.data}_{self.init}"

    @property
    def last(self) -> int:
        """Its last step, of all steps of the run."""
        return self.start + self.schedule.max_steps - 1


@dataclass(frozen=True)
class LotterySchedule(Schedule):
    """Blocks of all phases, one phase after the other; evaluations are counted within each."""

    phases: tuple[Phase, ...]

    @classmethod
    def of(cls, run: Run) -> "LotterySchedule":
        """The rounds of `run`, then its follow-ups: every kind of data from every kind of weights."""
        total, every = run.steps, run.trainer.eval_every
        return cls(total, every, (*_rounds(run), *_follow_ups(run)))

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step of the run, and the step's number within it."""
        phase = self.phases[bisect_right(self.phases, step, key=lambda phase: phase.start) - 1]
        return phase, step - phase.start

    def stops(self) -> list[int]:
        """Number of finished steps at the end of each block, ascending."""
        return sorted({p.start + end for p in self.phases for end in (*p.schedule.stops(), *p.marks)})

    def evaluates(self, step: int) -> bool:
        """Whether the metrics are measured after the update of `step`."""
        phase, within = self.at(step)
        return phase.schedule.evaluates(within)


def _rounds(run: Run) -> Iterator[Phase]:
    task, steps = lottery(run), run.trainer.max_steps
    for number in range(task.rounds):
        marks = (task.mask_step + 1, task.rewind_step) if number == 0 and task.rewind_step else (task.mask_step + 1,)
        yield Phase(number * steps, Schedule(steps, run.trainer.eval_every), round=number, marks=marks)


def _follow_ups(run: Run) -> Iterator[Phase]:
    task = lottery(run)
    start = task.rounds * run.trainer.max_steps
    for number, (data, init) in enumerate(product(task.follow_ups, task.follow_up_inits)):
        schedule = Schedule(task.follow_up_steps, task.follow_up_eval_every)
        yield Phase(start + number * task.follow_up_steps, schedule, init, data=data)


# -- data and weights ------------------------------------------------------------------------------------


def follow_up_run(run: Run, name: str) -> Run:
    """`run` on the data of a follow-up: a new draw of its data set, in the order of features that the name says.

    That order is the follow-up's own, whatever order the search has seen.
    """
    task = lottery(run)
    draw = {"seed": task.follow_up_data_seed, "batch_size": task.follow_up_batch_size}
    order = {"shuffle_features": False, "feature_order": "original", **FEATURES[name]}
    return run.model_copy(update={"data": run.data.model_copy(update={**draw, **order})})


class LotteryData(StackData):
    """The data of the search and, by name, of the follow-ups."""

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(runs, LotterySchedule.of(runs[0]))
        self.follow_ups: dict[str, StackData] = {
            name: StackData([follow_up_run(run, name) for run in runs]) for name in lottery(runs[0]).follow_ups
        }

    def setup(self, stage: str | None = None) -> None:
        """Load all of them, as `StackData` does."""
        super().setup(stage)
        for data in self.follow_ups.values():
            data.setup(stage)

    def to(self, device: torch.device) -> None:
        """Move all of them to `device`, once."""
        super().to(device)
        for data in self.follow_ups.values():
            data.to(device)

    def of(self, phase: Phase) -> StackData:
        """What a phase is trained and measured on."""
        return self if phase.data is None else self.follow_ups[phase.data]


def initial_member(run: Run) -> nn.Module:
    """The network that the search starts from: by default that of every other task with this seed."""
    return _member(run, run.seed, member_generator(run.seed, "weights"))


def redrawn_member(run: Run, scheme: str | None = None) -> nn.Module:
    """The same network with other initial weights, which the run's seed decides as well; by `task.init` or `scheme`."""
    generator = member_generator(run.seed, "redrawn")
    return _member(run, generator.initial_seed(), generator, scheme)


def _member(run: Run, seed: int, generator: torch.Generator, scheme: str | None = None) -> nn.Module:
    member = build_member(partial(make_member, run), seed)
    scheme = scheme or lottery(run).init
    for param in member.parameters() if scheme != "default" else ():
        if param.ndim < 2:
            nn.init.zeros_(param)
        elif scheme == "xavier":
            nn.init.xavier_uniform_(param, generator=generator)
        else:
            nn.init.kaiming_uniform_(param, nonlinearity="relu", generator=generator)
    return member


# -- the problem -----------------------------------------------------------------------------------------


class StackedLottery(StackedProblem):
    """Searches lottery tickets and trains them on other data (paper, lottery tickets; `lottery-tickets.ipynb`).

    Each round ranks the weights that the previous one had at `task.mask_step`, removes the lowest, returns the others
    to their weights before step `task.rewind_step` of the first round, and trains with a fresh optimiser from the
    first batch. A criterion of random numbers is a ranking like any other. With `task.shuffle_masks` each mask is
    permuted within its layers before it is used, so its successor is no part of it. With `task.schedule=one_shot` every
    round ranks the weights of the first one, so that its masks are those of one pruning, whatever the sparsity.

    All that must outlive a block is a buffer of one row per member, ``[N, P]`` (`mnist1d.pruning`), and so in every
    checkpoint.

    Attributes:
        initial: weights that the search starts from.
        rewound: weights that its rounds and the rewound follow-ups start from.
        redrawn: weights that the redrawn follow-ups start from.
        ranked: weights that the next masks are made of.
        trained: weights at the end of the round `task.ticket_round`.
        mask: what is kept now.
        ticket: the mask of the round `task.ticket_round`.
    """

    initial: Tensor
    rewound: Tensor
    redrawn: Tensor
    ranked: Tensor
    trained: Tensor
    mask: Tensor
    ticket: Tensor

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(runs)
        self.task = lottery(runs[0])  # but for criterion, init and shuffle_masks, which are the members' own
        self.schedule = LotterySchedule.of(runs[0])
        self.model = StackedModel([initial_member(run) for run in runs])
        self.layout = Layout(self.model.params)
        self._register(self.layout.rows(StackedModel([redrawn_member(run) for run in runs]).params))
        self._sparsities = sparsities(self.task)
        self._generators = [member_generator(run.seed, "masks") for run in runs]
        self._factors: list[Tensor] = []  # 1 for a kept parameter, 0 for a pruned one; empty if all are kept
        self._batches: Batches | StreamBatches

    def _register(self, redrawn: Tensor) -> None:
        initial = self.layout.rows(self.model.params)
        self.register_buffer("initial", initial)
        self.register_buffer("redrawn", redrawn)
        for name in ("rewound", "ranked", "trained"):
            self.register_buffer(name, initial.clone())
        for name in ("mask", "ticket"):
            self.register_buffer(name, torch.ones_like(initial, dtype=torch.bool))

    @classmethod
    def make_data(cls, runs: Sequence[Run]) -> StackData:
        """The data of search and follow-ups, with the schedule of both."""
        return LotteryData(runs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser, which returns pruned parameters to zero after every update.

        The reference zeroes them before every forward pass, which is the same: nothing reads them in between, their
        moments only move themselves, and so neither pass nor gradient ever sees anything but zero.
        """
        optimizer = super().configure_optimizers()
        optimizer.register_step_post_hook(self._zero_pruned)
        return optimizer

    @torch.no_grad()
    def _zero_pruned(self, *_: object) -> None:
        if self._factors:
            torch._foreach_mul_(list(self.model.params.values()), self._factors)

    def begin(self) -> None:
        """Take up the phase at the current position: mask and batches; after a resume the weights are there."""
        phase, _ = self.schedule.at(min(self.done, self.schedule.max_steps - 1))
        self._use_mask()
        self._batches = self._data_of(phase).batches()

    def _data_of(self, phase: Phase) -> StackData:
        data = self.data
        assert isinstance(data, LotteryData)
        return data.of(phase)

    def _use_mask(self) -> None:
        factors = self.layout.parts(self.mask.to(self.initial.dtype))
        self._factors = [] if self.mask.all() else [factor.contiguous() for factor in factors.values()]

    def train_block(self, steps: range) -> Tensor:
        """See `train_steps`; before the first step of a phase its masks and weights are made."""
        phase, first = self.schedule.at(steps.start)
        if first == 0:
            self._start(phase)
        losses = train_steps(self.model, self.optimizer, self._batches, range(first, first + len(steps)))
        if phase.round is not None:
            self._take_weights(phase.round, first + len(steps))
        return losses

    @torch.no_grad()
    def _start(self, phase: Phase) -> None:
        self.mask.copy_(self._ticket(phase) if phase.round is None else self._next_mask(phase.round))
        if phase.round == self.task.ticket_round:
            self.ticket.copy_(self.mask)
        weights = self.layout.parts(self._initial_weights(phase.init))
        for name, param in self.model.params.items():
            param.copy_(weights[name])
        self._use_mask()
        self._zero_pruned()
        self.optimizer.state.clear()
        self._batches = self._data_of(phase).batches()

    def _initial_weights(self, init: str) -> Tensor:
        """What a phase starts from, ``[N, P]``; which weights a mask keeps is another question.

        redrawn, redrawn_xavier and redrawn_kaiming are one draw by several schemes; sign_kept has the sizes of the
        first and the signs of the search's weights.
        """
        if init == "sign_kept":
            return self.redrawn.abs() * self.rewound.sign()
        if init in ("redrawn_xavier", "redrawn_kaiming"):
            members = [redrawn_member(run, init.removeprefix("redrawn_")) for run in self.runs]
            return self.layout.rows(StackedModel(members).params).to(self.rewound.device)
        return self.redrawn if init == "redrawn" else self.rewound

    def _layers(self) -> list[Tensor]:
        return [layer.to(self.mask.device) for layer in self.layout.layers(biases=self.task.prune_biases)]

    def _ticket(self, phase: Phase) -> Tensor:
        """The masks of a follow-up, ``[N, P]``."""
        if phase.init != "mask_shuffled":
            return self.ticket
        pairs = zip(self.ticket, self._generators, strict=True)
        return torch.stack([shuffled(mask, self._layers(), generator) for mask, generator in pairs])

    def _next_mask(self, number: int) -> Tensor:
        """The masks of a round, ``[N, P]``."""
        layers = self._layers()
        groups = [torch.cat(layers)] if self.task.scope == "global" else layers
        mask = kept(torch.stack([self._scores(n) for n in range(len(self.runs))]), groups, self._sparsities[number])
        for n, (run, generator) in enumerate(zip(self.runs, self._generators, strict=True)):
            if lottery(run).shuffle_masks:
                mask[n] = shuffled(mask[n], layers, generator)
        return mask

    def _scores(self, member: int) -> Tensor:
        """What a member's parameters are ranked by, ``[P]``; the lowest go."""
        criterion = lottery(self.runs[member]).criterion
        if criterion == "magnitude":
            scores = self.ranked[member].abs()
        else:
            numbers = torch.rand(self.mask.shape[1], generator=self._generators[member])
            scores = numbers.to(self.mask.device)
        afresh = criterion == "random" or self.task.schedule == "one_shot"
        # below all others, also those that happen to be zero: what is gone stays gone
        return scores if afresh else scores.where(self.mask[member], -1.0)

    def _take_weights(self, number: int, done: int) -> None:
        """Copy the weights of a round where the protocol asks for them, after `done` of its steps."""
        wanted = {
            "rewound": number == 0 and done == self.task.rewind_step,
            "ranked": done == self.task.mask_step + 1 and (number == 0 or self.task.schedule != "one_shot"),
            "trained": number == self.task.ticket_round and done == self.runs[0].trainer.max_steps,
        }
        for name in (name for name, here in wanted.items() if here):
            getattr(self, name).copy_(self.layout.rows(self.model.params))

    def measure(self, step: int) -> dict[str, Tensor]:
        """Loss and accuracy on all splits, and in the search the share of parameters removed, of all there are.

        Metrics of a follow-up begin with its data and weights: `shuffled_rewound/test/acc`.
        """
        if not self.schedule.evaluates(step):
            return {}
        phase, _ = self.schedule.at(step)
        metrics = evaluate(self.model, self._data_of(phase).measured)
        if phase.round is None:
            return {f"{phase.name}/{name}": values for name, values in metrics.items()}
        return metrics | {"sparsity": 1 - self.mask.double().mean(1)}

    def finals(self, member: int) -> dict[str, float]:
        """Accuracies where a training ended, and the structure of the ticket's first layer.

        `test/acc_final` is of the round `task.ticket_round`, `test/acc_best` of the round that ended best,
        `shuffled_rewound/test/acc_final` of a follow-up; `adjacency/…` as in `mnist1d.pruning.adjacency`.
        """
        history = self.histories[member]
        if history.failure:
            return {}
        rounds = [phase for phase in self.schedule.phases if phase.round is not None]
        accuracy = dict(history.metrics["test/acc"])
        ends = [accuracy[phase.last] for phase in rounds]
        finals = {"test/acc_final": ends[self.task.ticket_round], "test/acc_best": max(ends)}
        for phase in self.schedule.phases[len(rounds) :]:
            finals[f"{phase.name}/test/acc_final"] = history.metrics[f"{phase.name}/test/acc"][-1][1]
        first = self.layout.parts(self.ticket[member])[self.layout.first].flatten(1)
        finals |= {f"adjacency/{name}": share for name, share in adjacency(first).items()}
        return finals | {"density/first_layer": float(first.double().mean())}

    def member_state(self, member: int) -> dict[str, Tensor]:
        """The ticket: under the plain module's names its weights at the end of its round, beside them where it began.

        `initial/NAME` are the weights that the search started from, `mask/NAME` the ticket's booleans.
        """
        rows = {"": self.trained, "initial/": self.initial, "mask/": self.ticket}
        state = {f"{kind}{name}": v for kind, row in rows.items() for name, v in self.layout.parts(row[member]).items()}
        return {name: values.cpu().clone() for name, values in state.items()}

    def own_state(self) -> dict[str, Any]:
        """The generators of masks and batches; all else is in buffers."""
        return {"batches": self._batches.state_dict(), "masks": [g.get_state() for g in self._generators]}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Inverse of `own_state`."""
        self._batches.load_state_dict(state["batches"])
        for generator, saved in zip(self._generators, state["masks"], strict=True):
            generator.set_state(saved.cpu())
