"""Contrastive learning of N runs at once (SimCLR, paper: self-supervised learning), and the probes of every layer."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from mnist1d.augment import Augmentation, Ranges
from mnist1d.blocks import Batches, Schedule, StackData, StreamBatches
from mnist1d.classification import train_steps
from mnist1d.config import Run
from mnist1d.config.tasks import Contrastive
from mnist1d.contrastive_loss import make_loss
from mnist1d.models import Encoder, make_encoder
from mnist1d.probe import Features, isolation, linear_probe, neighbour_accuracy
from mnist1d.problem import StackedProblem
from mnist1d.stack import StackedModel, build_member, member_generator


@dataclass(frozen=True)
class ProbedSchedule(Schedule):
    """Blocks that also end where probes are due: after every `probe_every` finished steps, as in the reference."""

    probe_every: int

    def stops(self) -> list[int]:
        """Number of finished steps at the end of each block, ascending."""
        return sorted({*super().stops(), *range(self.probe_every, self.max_steps, self.probe_every)})

    def probes(self, step: int) -> bool:
        """Whether the last convolution and the output are probed after the update of `step`."""
        return (step + 1) % self.probe_every == 0


class ContrastiveData(StackData):
    """Trains on the signals of the test samples too, where `task.train_on` says so."""

    @property
    def training(self) -> tuple[Tensor, Tensor]:
        """Inputs ``[N or 1, rows, length]`` and labels ``[N or 1, rows]``, which nothing looks at."""
        if _task(self.runs[0]).train_on == "train":
            return self.splits["train"]
        (x, y), (test_x, test_y) = self.splits["train"], self.splits["test"]
        members = max(len(x), len(test_x))
        signals = torch.cat([x.expand(members, -1, -1), test_x.expand(members, -1, -1)], 1)
        return signals, torch.cat([y.expand(members, -1), test_y.expand(members, -1)], 1)


class StackedContrastive(StackedProblem):
    """Brings the outputs for two views of a sample together; digits are only looked at by the probes.

    Metrics: `train/loss`, the mean over the block that ends there; `probe/…`, test accuracy of a linear probe on
    pixels, h1, h2, …, p1, …; `knn/acc` and `knn/pixels`, of nearest neighbours; `isolation/…`, mean silhouette of a
    digit's test outputs; with `data.val_split`, `val/probe/…`, the same probes' accuracy on the samples held out. All
    but the first are in full at the end, and `knn/acc` and the probe of the last convolution also every
    `task.probe_every` steps.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(runs)
        self.model = StackedModel([build_member(partial(make_encoder, run.flat()), run.seed) for run in runs])
        self._tasks = [_task(run) for run in runs]
        self._batches: Batches | StreamBatches
        self._augmentation: Augmentation
        self._block_loss: Tensor  # [N], of the last block

    @classmethod
    def make_data(cls, runs: Sequence[Run]) -> StackData:
        """The data module of a stack, with blocks that end where probes are due."""
        trainer = runs[0].trainer
        schedule = ProbedSchedule(trainer.max_steps, trainer.eval_every, _task(runs[0]).probe_every)
        return ContrastiveData(runs, schedule)

    def begin(self) -> None:
        """Start the walk through the training data and the members' augmentations."""
        self._batches = self.data.batches()
        ranges = [Ranges(task.max_shift, task.slope_scale, task.offset_scale) for task in self._tasks]
        generators = [member_generator(run.seed, "augmentation") for run in self.runs]
        self._augmentation = Augmentation(ranges, generators)
        temperature = torch.tensor([task.temperature for task in self._tasks], device=self.device)
        self._loss = make_loss(self._tasks[0].loss, temperature)

    def train_block(self, steps: range) -> Tensor:
        """See `train_steps`."""
        losses = train_steps(self.model, self.optimizer, self._views, steps, self._objective)
        self._block_loss = losses.mean(0)
        return losses

    def _views(self, step: int) -> tuple[Tensor, Tensor]:
        """The first and then the second views of a mini-batch, ``[N, 2 · batch, length]``, and its labels."""
        x, y = self._batches(step)
        return self._augmentation(x) if self._tasks[0].augment else torch.cat([x, x], 1), y

    def _objective(self, outputs: Tensor, _labels: Tensor) -> Tensor:
        """Losses ``[N]``: the mean over heads, each on its own outputs (Ruan et al. 2023, with equal weights)."""
        first, second = (view.chunk(self._tasks[0].heads, dim=2) for view in outputs.chunk(2, dim=1))
        return torch.stack([self._loss(*views) for views in zip(first, second, strict=True)]).mean(0)

    def measure(self, step: int) -> dict[str, Tensor]:
        """The loss where the schedule evaluates, scores where it probes, all scores at the end."""
        schedule = self.data.schedule
        assert isinstance(schedule, ProbedSchedule)
        metrics = {"train/loss": self._block_loss} if schedule.evaluates(step) else {}
        last = step == schedule.max_steps - 1
        if last or schedule.probes(step):
            scores = self._scores_of_all(everything=last)
            metrics |= {name: torch.tensor([own[name] for own in scores], dtype=torch.float64) for name in scores[0]}
        return metrics

    def finals(self, member: int) -> dict[str, float]:
        """The last convolution's probe as `test/acc_final`, the best layer's as `test/acc_best`, and which it is.

        `probe/best_layer` counts as the paper does: 0 the pixels, 1 h1, 2 h2, …; `probe/output` is the last one. With
        `data.val_split`, `val/acc_final` is the last convolution's, and `test/acc_selected` is the test accuracy of
        `probe/selected_layer`, the layer that validation samples prefer, without a look at test data.
        """
        history = self.histories[member]
        if history.failure:
            return {}
        last, layers = len(self._encoder.convs), ("pixels", *self._encoder.names)
        ends = {name: points[-1][1] for name, points in history.metrics.items()}
        test = [ends[f"probe/{name}"] for name in layers]
        finals = {"test/acc_final": test[last], "test/acc_best": max(test), "probe/output": test[-1]}
        finals["probe/best_layer"] = float(test.index(max(test)))
        if "val/probe/pixels" in ends:
            val = [ends[f"val/probe/{name}"] for name in layers]
            chosen = val.index(max(val))
            finals |= {"val/acc_final": val[last], "test/acc_selected": test[chosen]}
            finals["probe/selected_layer"] = float(chosen)
        return finals

    def own_state(self) -> dict[str, Any]:
        """The members' generators of batches and of augmentation."""
        return {"batches": self._batches.state_dict(), "augmentation": self._augmentation.state_dict()}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Inverse of `own_state`."""
        self._batches.load_state_dict(state["batches"])
        self._augmentation.load_state_dict(state["augmentation"])

    # -- probes of one member, on the CPU ----------------------------------------------------------------

    @property
    def _encoder(self) -> Encoder:
        """The plain module, for any member's weights."""
        encoder = self.model.template
        assert isinstance(encoder, Encoder)
        return encoder

    def _scores_of_all(self, *, everything: bool) -> list[dict[str, float]]:
        """The members' scores, a member per thread: threads within a probe wait longer than they compute."""
        layers = (self._layers(member) for member in range(self.model.size))
        with threadpool_limits(1), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            score = partial(self._scores, everything=everything)
            return list(pool.map(score, range(self.model.size), layers))

    def _scores(self, member: int, layers: dict[str, Features], *, everything: bool) -> dict[str, float]:
        """Scores of a member by name, from its layers: those along training, or of every layer and digit."""
        splits = {name: self._split(name, member) for name in self.data.splits}
        train_y, test_y = splits["train"][1], splits["test"][1]
        output = layers[self._encoder.names[-1]]
        pixels = Features(**{name: x for name, (x, _) in splits.items()})
        probed = {"pixels": pixels, **layers} if everything else self._last_convolution(layers)
        neighbours, scores = self._tasks[0].neighbours, dict[str, float]()
        for name, own in probed.items():
            accuracy = linear_probe(own.train, train_y)
            scores[f"probe/{name}"] = accuracy(own.test, test_y)
            if own.val is not None:
                scores[f"val/probe/{name}"] = accuracy(own.val, splits["val"][1])
        scores["knn/acc"] = neighbour_accuracy(output, train_y, test_y, neighbours, cosine=True)
        if everything:
            scores["knn/pixels"] = neighbour_accuracy(pixels, train_y, test_y, neighbours, cosine=False)
            scores |= {f"isolation/{digit}": value for digit, value in isolation(output.test, test_y).items()}
        return scores

    def _last_convolution(self, layers: dict[str, Features]) -> dict[str, Features]:
        name = self._encoder.names[len(self._encoder.convs) - 1]
        return {name: layers[name]}

    def _split(self, name: str, member: int) -> tuple[Tensor, Tensor]:
        """A member's inputs ``[rows, length]`` and labels ``[rows]``."""
        x, y = (values[member % len(values)].cpu() for values in self.data.splits[name])
        return x, y

    @torch.no_grad()
    def _layers(self, member: int) -> dict[str, Features]:
        self._encoder.load_state_dict(self.model.member_state(member))
        outputs = {name: self._encoder.layers(self._split(name, member)[0]) for name in self.data.splits}
        return {
            layer: Features(**{name: layers[place] for name, layers in outputs.items()})
            for place, layer in enumerate(self._encoder.names)
        }


def _task(run: Run) -> Contrastive:
    assert isinstance(run.task, Contrastive)
    return run.task
