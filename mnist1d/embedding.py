"""t-SNE of the samples of N runs (paper: dimensionality reduction), and how far neighbours share a digit.

No network is trained: what moves are places in the plane, by openTSNE's gradient descent, an iteration per optimiser
step. Members are embedded one after the other, each by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from openTSNE import TSNE, TSNEEmbedding
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from mnist1d.blocks import Schedule, StackData
from mnist1d.config import Run
from mnist1d.config.schema import SGD
from mnist1d.config.tasks import Embedding
from mnist1d.probe import Features, linear_probe, neighbour_accuracy, purity, silhouettes
from mnist1d.problem import StackedProblem
from mnist1d.stack import StackedModel

SPACES = ("pixels", "plane")
"""Where neighbours are looked for: among the inputs, and where t-SNE puts them."""


@dataclass(frozen=True)
class PhasedSchedule(Schedule):
    """Blocks that also end, with an evaluation, where the exaggeration does."""

    early_steps: int

    def stops(self) -> list[int]:
        """Number of finished steps at the end of each block, ascending."""
        return sorted({*super().stops(), self.early_steps})

    def evaluates(self, step: int) -> bool:
        """Whether the divergence is recorded after `step`."""
        return super().evaluates(step) or step == self.early_steps - 1


class Plane(nn.Module):
    """A place in the plane for every sample: the first ones for training samples, the last ones for test samples."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(rows, 2))


class StackedEmbedding(StackedProblem):
    """Puts all samples of a run into the plane, near to one another where their inputs are near (openTSNE).

    Metrics: `kl`, the Kullback-Leibler divergence that t-SNE minimises, without exaggeration. At the end also, in
    `SPACES`: `knn/…`, test accuracy of the majority of nearest training samples; `purity/…`, mean share of a
    sample's nearest others, training and test samples alike, that have its digit; `silhouette/…`, mean over samples,
    and in the plane by digit. `probe/pixels` is the test accuracy of a linear model on the inputs.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(runs)
        self.model = StackedModel([Plane(sum(run.data.rows)) for run in runs])
        self._tasks = [_task(run) for run in runs]
        self._embeddings: list[TSNEEmbedding] = []
        self._affinities: list[NDArray[np.float64]] = []

    @classmethod
    def make_data(cls, runs: Sequence[Run]) -> StackData:
        """The data module of a stack, with a block's end where the exaggeration ends."""
        schedule = PhasedSchedule(runs[0].steps, runs[0].trainer.eval_every, _task(runs[0]).early_steps)
        return StackData(runs, schedule)

    def begin(self) -> None:
        """Find the neighbours and put all samples near to the origin, by their principal components."""
        self._embeddings = [self._initial(member) for member in range(len(self.runs))]
        self._affinities = [embedding.affinities.P.data.copy() for embedding in self._embeddings]

    def _initial(self, member: int) -> TSNEEmbedding:
        # One thread: the sums of several depend on their number. The seed: approximate neighbours, components, jitter.
        options = TSNE(perplexity=self._tasks[member].perplexity, random_state=self.runs[member].seed, n_jobs=1)
        with threadpool_limits(1):
            return options.prepare_initial(self._all_samples(member)[0].numpy())

    def train_block(self, steps: range) -> Tensor:
        """Iterations of gradient descent; the divergence after the last of them, ``[len(steps), N]``."""
        with threadpool_limits(1):
            ends = [self._descend(member, steps) for member in range(len(self.runs))]
        for member, embedding in enumerate(self._embeddings):
            self.model.params["places"].data[member] = torch.from_numpy(np.array(embedding))
        return torch.tensor(ends, dtype=torch.float64).expand(len(steps), -1)

    def _descend(self, member: int, steps: range) -> float:
        embedding, task, rule = self._embeddings[member], self._tasks[member], self.runs[member].optimizer
        assert isinstance(rule, SGD)
        exaggeration = task.exaggeration if steps.start < task.early_steps else 1.0
        rate = rule.lr * len(embedding) / exaggeration  # openTSNE's rule (Belkina et al. 2019), times optimizer.lr
        moves = {"exaggeration": exaggeration, "learning_rate": rate, "momentum": rule.momentum}
        embedding.optimize(len(steps), inplace=True, propagate_exception=True, **moves)
        embedding.affinities.P.data[:] = self._affinities[member]  # multiplied and divided, they were off by rounding
        return float(embedding.kl_divergence)

    def measure(self, step: int) -> dict[str, Tensor]:
        """The divergence where the schedule evaluates; all else at the end."""
        schedule = self.data.schedule
        if not schedule.evaluates(step):
            return {}
        scores = [{"kl": float(embedding.kl_divergence)} for embedding in self._embeddings]
        if step == schedule.max_steps - 1:
            with threadpool_limits(1):
                scores = [own | self._scores(member) for member, own in enumerate(scores)]
        return {name: torch.tensor([own[name] for own in scores], dtype=torch.float64) for name in scores[0]}

    def _scores(self, member: int) -> dict[str, float]:
        signals, labels = self._all_samples(member)
        places = torch.from_numpy(np.array(self._embeddings[member]))
        neighbours, test = self._tasks[member].neighbours, self.data.splits["test"][1].shape[1]
        train_y, test_y = labels[:-test], labels[-test:]
        scores = {}
        for space, values in zip(SPACES, (signals, places), strict=True):
            features = Features(values[:-test], values[-test:])
            scores[f"knn/{space}"] = neighbour_accuracy(features, train_y, test_y, neighbours, cosine=False)
            scores[f"purity/{space}"] = purity(values, labels, neighbours)
            own = silhouettes(values, labels)
            scores[f"silhouette/{space}"] = float(own.mean())
        by_digit = {f"silhouette/plane_{digit}": float(own[labels == digit].mean()) for digit in labels.unique()}
        probe = linear_probe(signals[:-test], train_y)(signals[-test:], test_y)
        return {**scores, **by_digit, "probe/pixels": probe}

    def _all_samples(self, member: int) -> tuple[Tensor, Tensor]:
        """A member's inputs ``[rows, length]`` and labels ``[rows]``, test samples last."""
        parts = [self.data.splits[name] for name in ("train", "val", "test") if name in self.data.splits]
        own = [(x[member % len(x)].cpu(), y[member % len(y)].cpu()) for x, y in parts]
        return torch.cat([x for x, _ in own]), torch.cat([y for _, y in own])

    def finals(self, member: int) -> dict[str, float]:
        """Accuracy of pixel neighbours as `test/acc_final`, the best of all as `test/acc_best`, and `kl_early`."""
        history = self.histories[member]
        if history.failure:
            return {}
        ends = {name: points[-1][1] for name, points in history.metrics.items()}
        best = max(ends["knn/pixels"], ends["knn/plane"], ends["probe/pixels"])
        early = dict(history.metrics["kl"])[self._tasks[member].early_steps - 1]
        return {"test/acc_final": ends["knn/pixels"], "test/acc_best": best, "kl_early": early}

    def own_state(self) -> dict[str, Any]:
        """Places, and the descent's gains and last moves, in double precision."""
        states = [(np.array(each), each.optimizer.gains, each.optimizer.update) for each in self._embeddings]
        return {"descent": [[torch.from_numpy(np.asarray(values)) for values in state] for state in states]}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Inverse of `own_state`."""
        for embedding, saved in zip(self._embeddings, state["descent"], strict=True):
            embedding[:], embedding.optimizer.gains, embedding.optimizer.update = (each.numpy() for each in saved)


def _task(run: Run) -> Embedding:
    assert isinstance(run.task, Embedding)
    return run.task
