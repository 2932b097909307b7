"""What a run learns: the keys of the group `task`, one class for each file in conf/task/."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mnist1d.config.faults import Conflict, Fault
from mnist1d.config.section import Count, Decay, Positive, Section, Seed, Share, Size

Rate = Annotated[float, Field(gt=0, lt=1)]

FIRST_OWN_TRIAL = 1000
"""Seed of the first trial's data in a run of seed 0 whose trials are its own; far from the seeds of training data."""

FOLLOW_UP_WINDOW = 10
"""Inputs that are zeroed in each sample of a follow-up on window_zeroed."""

AUGMENTATIONS = ("shift", "dilation", "scale_coeff", "corr_noise_scale", "iid_noise_scale", "shear_scale")
"""Keys of task=recipe that change training signals at random; 0: they do not."""


class Task(Section):
    """Keys that every task has."""

    values: ClassVar[frozenset[str]] = frozenset()
    """Keys in which members of a stack may differ, beyond `mnist1d.plan.VALUES`, where this is what they learn."""

    name: str = Field(description="what is learned: a file in conf/task/")
    target: str = Field(alias="_target_", description="the class that trains a stack of it")

    def steps(self, max_steps: int) -> int:
        """Optimiser steps of a run whose trainer.max_steps is `max_steps`."""
        return max_steps

    def work(self, max_steps: int, batch_size: int) -> float:
        """How many steps on one batch of `batch_size` samples the training takes as long as."""
        del batch_size
        return max_steps

    def batches(self, max_steps: int, batch_size: int) -> dict[int, float]:
        """Samples in a batch -> how many steps on such batches the training takes as long as."""
        return {batch_size: self.work(max_steps, batch_size)}

    @property
    def unrolled(self) -> int:
        """Steps that are kept in memory to go back through."""
        return 0

    @property
    def nets(self) -> int:
        """Networks that a run trains side by side."""
        return 1


class Classification(Task):
    """Classify digits."""

    name: Literal["classification"] = Field(description="what is learned: a file in conf/task/")


class Recipe(Task):
    """Classify digits, with what may be done to training batches, targets, rate, weights and predictions."""

    values = frozenset(
        {
            *(f"task.{key}" for key in AUGMENTATIONS),
            "task.label_smoothing",
            "task.rate_schedule",
            "task.warmup",
            "task.average_decay",
            "task.test_shift",
        }
    )

    name: Literal["recipe"] = Field(description="what is learned: a file in conf/task/")
    detrend: bool = Field(description="take mean and least-squares slope from every signal, in training and evaluation")
    shift: Count = Field(description="training signals are shifted in a circle by up to this many positions either way")
    dilation: Decay = Field(description="training signals are made longer or shorter by up to this share")
    scale_coeff: Size = Field(description="width of the random amplitude of training signals, around 1")
    corr_noise_scale: Size = Field(description="size of the smooth noise added to training signals")
    iid_noise_scale: Size = Field(description="size of the white noise added to training signals")
    shear_scale: Size = Field(description="size of the random slope added to training signals")
    label_smoothing: Decay = Field(description="share of a training target that is spread evenly over all classes")
    rate_schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        description="how the learning rate goes on from optimizer.lr after the warm-up"
    )
    warmup: Decay = Field(description="share of the steps in which the learning rate rises")
    average_decay: Decay = Field(
        description="decay of a running mean of the weights, evaluated in their place; 0: none"
    )
    test_shift: Count = Field(description="logits are averaged over circular shifts of up to this many positions")
    ensemble: int = Field(ge=1, le=1000, description="nets that a run trains side by side; their logits are averaged")

    def work(self, max_steps: int, batch_size: int) -> float:
        """Every net takes every step."""
        del batch_size
        return max_steps * self.ensemble

    @property
    def nets(self) -> int:
        return self.ensemble

    @property
    def augments(self) -> bool:
        """Whether training signals are changed at random."""
        return any(getattr(self, key) for key in AUGMENTATIONS)

    @property
    def additions(self) -> tuple[float, float, float]:
        """Scales of what is added to training signals: smooth noise, white noise, slope."""
        return self.corr_noise_scale, self.iid_noise_scale, self.shear_scale


class Lottery(Task):
    """Prune in rounds, each of `trainer.max_steps` steps, then train the tickets on other data."""

    name: Literal["lottery"] = Field(description="what is learned: a file in conf/task/")
    criterion: Literal["magnitude", "random", "random_nested"] = Field(
        description="which weights go first: the smallest, or any (drawn anew each round, or only from those left)"
    )
    rounds: Positive = Field(description="rounds of pruning and training; the first is dense")
    schedule: Literal["linear", "geometric", "one_shot"] = Field(
        description="sparsity grows by equal steps to final_sparsity, or each round removes a share of what is left, "
        "or each prunes the first round's net to the latter's sparsity at once"
    )
    final_sparsity: Share = Field(description="sparsity of the last round of a linear schedule")
    rate: Rate = Field(description="share of the remaining weights removed per round, if not linear")
    scope: Literal["layer", "global"] = Field(description="rank weights within their layer or across layers")
    prune_biases: bool = Field(description="rank and prune biases with the weights of their layer")
    mask_step: Count = Field(description="step of a round whose weights are ranked for the next")
    rewind_step: Count = Field(description="step of the first round whose weights the kept ones return to; 0: initial")
    init: Literal["default", "xavier", "kaiming"] = Field(description="how initial weights are drawn")
    shuffle_masks: bool = Field(description="permute each mask within its layer: keeps sparsity, loses structure")
    ticket_round: Count = Field(description="round, from 0, whose masks are the tickets")
    follow_ups: list[
        Literal[
            "fresh",
            "reversed",
            "shuffled",
            "half_swapped",
            "chunk_shuffled",
            "noisy",
            "window_zeroed",
            "random_labels",
        ]
    ] = Field(description="data that the tickets are trained on after the search")
    follow_up_inits: list[
        Literal["rewound", "redrawn", "redrawn_xavier", "redrawn_kaiming", "sign_kept", "mask_shuffled"]
    ] = Field(description="weights they start from: those of the search, new ones, or a mixture")
    follow_up_steps: Positive = Field(description="optimiser steps of each follow-up")
    follow_up_batch_size: Positive = Field(description="samples in their optimiser steps")
    follow_up_eval_every: Positive = Field(description="steps between their evaluations")
    follow_up_data_seed: Count = Field(description="seed of the generator for their data")

    def steps(self, max_steps: int) -> int:
        """All rounds and all follow-ups."""
        return self.rounds * max_steps + len(self.follow_ups) * len(self.follow_up_inits) * self.follow_up_steps

    def batches(self, max_steps: int, batch_size: int) -> dict[int, float]:
        """Follow-ups have batches of their own size."""
        search, follow_ups = self.rounds * max_steps, self.steps(max_steps) - self.rounds * max_steps
        if self.follow_up_batch_size == batch_size or not follow_ups:
            return {batch_size: search + follow_ups}
        return {batch_size: search, self.follow_up_batch_size: follow_ups}

    def conflicts(self) -> Iterator[Fault]:
        if self.ticket_round >= self.rounds:
            text = f"there are only task.rounds={self.rounds}"
            yield Conflict("task.ticket_round", self.ticket_round, text, f"a whole number from 0 to {self.rounds - 1}")
        for key in ("follow_ups", "follow_up_inits"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                yield Conflict(f"task.{key}", values, "has one twice", "each at most once")


class MetalearnLr(Task):
    """Learn a learning rate by gradients through whole trainings, `trainer.max_steps` of them."""

    name: Literal["metalearn_lr"] = Field(description="what is learned: a file in conf/task/")
    inner_steps: Positive = Field(description="steps of gradient descent in each training")
    outer_lr: Size = Field(description="learning rate of the learning rate, which starts at optimizer.lr")
    differentiation: Literal["reverse", "forward"] = Field(
        description="along with the training, in constant memory, or in reverse, as the reference"
    )

    def work(self, max_steps: int, batch_size: int) -> float:
        """Every step is a training, and its derivative takes as long again."""
        del batch_size
        return 2 * max_steps * self.inner_steps

    @property
    def unrolled(self) -> int:
        """A whole training, if it is differentiated in reverse."""
        return self.inner_steps if self.differentiation == "reverse" else 0


class MetalearnActivation(Task):
    """Learn an activation function by gradients through `trainer.max_steps` whole trainings, then try it out."""

    values = frozenset({"model.activation", "task.protocol", "task.hidden_noise", "task.clamp"})

    name: Literal["metalearn_activation"] = Field(description="what is learned: a file in conf/task/")
    protocol: Literal["reference", "corrected"] = Field(
        description="the same weights and noise for every training, and noise in evaluations; or new ones, and none"
    )
    scale: Size = Field(description="weight of the learned network beside model.activation; 0: nothing is learned")
    meta_hidden: Positive = Field(description="hidden units of that network")
    inner_steps: Positive = Field(description="optimiser steps of each training")
    loss_window: Positive = Field(description="last steps of a training whose mean loss is minimised")
    hidden_noise: Size = Field(description="largest noise added to hidden units, of net and network alike")
    outer_lr: Size = Field(description="learning rate of the network's weights")
    clamp: Annotated[float, Field(gt=0)] = Field(description="largest entry of their gradient, in size")
    snapshot_every: Positive = Field(description="trainings between snapshots of the function")
    trials: Count = Field(description="nets with new weights, on new data, that the finished function is tried with")
    trial_lrs: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        description="learning rates that each of them chooses from by validation accuracy"
    )
    trial_steps: Positive = Field(description="optimiser steps after which each of them is scored")
    long_trial_steps: Positive | None = Field(description="steps after which it is scored again; null: not")
    trial_data_seed: Seed | None = Field(
        description="seed of the first trial's data; the next ones count on; null: trials that no other run's seed has"
    )

    def first_trial(self, seed: int) -> int:
        """Seed of the first trial's data in a run of this seed."""
        return FIRST_OWN_TRIAL + seed * self.trials if self.trial_data_seed is None else self.trial_data_seed

    @property
    def marks(self) -> list[tuple[str, int]]:
        """Endings of metrics and after how many steps of a trial they are measured, in order."""
        long = self.long_trial_steps
        return [("", self.trial_steps), *([("_long", long)] if long else [])]

    def steps(self, max_steps: int) -> int:
        """Trainings, then trials."""
        return max_steps + self.trials

    def work(self, max_steps: int, batch_size: int) -> float:
        """Every step is a training; differentiating it takes as long again. A trial is a training at every rate."""
        del batch_size
        return 2 * max_steps * self.inner_steps + self.trials * len(self.trial_lrs) * self.marks[-1][1]

    @property
    def unrolled(self) -> int:
        """A whole training, each step twice: what a table gives and RMSprop's means are kept beside the rest."""
        return 2 * self.inner_steps if self.scale else 0

    def conflicts(self) -> Iterator[Fault]:
        if self.loss_window > self.inner_steps:
            text, limit = f"a training has task.inner_steps={self.inner_steps}", f"1 to {self.inner_steps}"
            yield Conflict("task.loss_window", self.loss_window, text, limit)
        if (long := self.long_trial_steps) and long <= self.trial_steps:
            text = f"a trial is scored first after task.trial_steps={self.trial_steps}"
            yield Conflict("task.long_trial_steps", long, text, f"null, or at least {self.trial_steps + 1}")


class Contrastive(Task):
    """Bring two views of a sample together, then probe every layer."""

    name: Literal["contrastive"] = Field(description="what is learned: a file in conf/task/")
    loss: Literal["infonce", "nt_xent", "triplet", "barlow_twins", "vicreg"] = Field(description="what is minimised")
    temperature: Annotated[float, Field(gt=0)] = Field(description="divides the similarities of infonce and nt_xent")
    augment: bool = Field(description="whether the two views differ at all")
    max_shift: Positive = Field(description="circular shifts go from 0 to one below this")
    slope_scale: Size = Field(description="standard deviation of the slope added to a view")
    offset_scale: Size = Field(description="standard deviation of the offset added to a view")
    train_on: Literal["train", "all"] = Field(description="training samples only, or the test samples too")
    projector_depth: Count = Field(description="linear layers behind the convolutions; 0: none")
    projector_width: Positive = Field(description="units of all of them but the last")
    output_size: Positive = Field(description="units of the last")
    heads: Positive = Field(description="projectors side by side, over whose losses the mean is minimised")
    probe_every: Positive = Field(description="steps between probes of the encoder's last layer and the output")
    neighbours: Positive = Field(description="neighbours that vote in the kNN score of the output")

    def work(self, max_steps: int, batch_size: int) -> float:
        """Every step sees two views."""
        del batch_size
        return 2 * max_steps

    def conflicts(self) -> Iterator[Fault]:
        if self.heads > 1 and self.projector_depth == 0:
            yield Conflict("task.heads", self.heads, "without a projector (task.projector_depth=0) there are none", "1")


class Embedding(Task):
    """Put the samples into the plane by t-SNE: `early_steps` iterations, then `trainer.max_steps` more."""

    name: Literal["embedding"] = Field(description="what is learned: a file in conf/task/")
    perplexity: Positive = Field(description="how many neighbours a sample has, softly counted")
    early_steps: Positive = Field(description="first iterations, in which neighbours attract one another more")
    exaggeration: Annotated[float, Field(ge=1)] = Field(description="how many times more")
    neighbours: Positive = Field(description="neighbours that vote and are counted in the scores")

    def steps(self, max_steps: int) -> int:
        """Both phases."""
        return self.early_steps + max_steps

    def work(self, max_steps: int, batch_size: int) -> float:
        """Whatever the batch: an iteration over 5000 samples takes as long as 70 steps of logistic regression."""
        del batch_size
        return 70 * self.steps(max_steps)
