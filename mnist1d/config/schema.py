"""Types and limits of every key in conf/; a `Run` is one resolved, validated config.

Rules over several keys of a section stand in its `conflicts`; they may join task, model and data, nothing else
(`mnist1d.config.validate` relies on that when it walks through a sweep).
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mnist1d.config.describe import allowed, choices
from mnist1d.config.faults import Conflict, Fault
from mnist1d.config.section import Count, Decay, Positive, Section, Seed, Share, Size
from mnist1d.config.tasks import (
    AUGMENTATIONS,
    FOLLOW_UP_WINDOW,
    Classification,
    Contrastive,
    Embedding,
    Lottery,
    MetalearnActivation,
    MetalearnLr,
    Recipe,
)
from mnist1d.image_sets import IMAGE_SETS, ImageSet, part_sizes
from mnist1d.spelling import nearest, spelled


class Data(Section):
    """What every data set has: its sizes, what is done to it on purpose, and how it is walked through."""

    name: str = Field(description="the data set")
    num_samples: int | None = Field(description="samples used, training and test together")
    train_split: float | None = Field(description="share of the samples used for training")
    final_seq_length: int = Field(description="positions of a sample")
    seed: Seed = Field(description="seed of what is drawn: samples or splits, and label noise")
    label_noise: Share = Field(description="share of training labels that are replaced by random ones")
    label_noise_mode: Literal["redraw", "flip"] = Field(description="redraw may hit the true label, flip never does")
    shuffle_features: bool = Field(description="permute the positions, the same way for all samples")
    feature_seed: Seed = Field(description="seed of that permutation")
    feature_order: Literal["original", "reversed", "half_swapped", "chunk_shuffled"] = Field(
        description="order of the positions"
    )
    chunk_length: Positive = Field(description="positions in a chunk of chunk_shuffled")
    zero_window: Count = Field(description="positions of a window, anywhere in each sample, that are set to 0; 0: none")
    val_split: float = Field(ge=0, lt=1, description="share of the training data held out for validation")
    test_samples: Positive | None = Field(description="test samples used, the first ones; null takes all")
    batch_size: Positive = Field(description="samples in an optimiser step")
    batch_order: Literal["sequential", "shuffled"] = Field(description="stored order, or reshuffled each epoch")
    stream: bool = Field(description="draw fresh training samples for every step")

    @property
    def parts(self) -> tuple[int, int]:
        """Number of samples for training, those held out included, and of test samples."""
        raise NotImplementedError

    @property
    def rows(self) -> tuple[int, int, int]:
        """Number of training, validation and test samples."""
        kept, test = self.parts
        held_out = int(kept * self.val_split)
        return kept - held_out, held_out, min(test, self.test_samples or test)

    def conflicts(self) -> Iterator[Fault]:
        yield from self._split_conflicts()
        yield from self._order_conflicts()

    def _split_conflicts(self) -> Iterator[Fault]:
        train, held_out, test = self.rows
        drawn = self.parts[1]
        samples = f"data.num_samples={sum(self.parts)}"
        if train + held_out < 1:
            yield Conflict("data.train_split", self.train_split, f"leaves no training sample of {samples}")
        elif test < 1:
            yield Conflict("data.train_split", self.train_split, f"leaves no test sample of {samples}")
        elif test < (self.test_samples or 0):
            text, limit = f"more than the {drawn} test samples", f"a whole number from 1 to {drawn}"
            yield Conflict("data.test_samples", self.test_samples, text, limit)
        elif self.val_split > 0 and held_out < 1:
            text = f"holds out none of {train} training samples"
            yield Conflict("data.val_split", self.val_split, text, f"0, or at least {1 / train:.3g}")
        elif self.batch_size > train and not self.stream:
            text = f"more than the {train} training samples"
            yield Conflict("data.batch_size", self.batch_size, text, f"a whole number from 1 to {train}")

    def _order_conflicts(self) -> Iterator[Fault]:
        if self.shuffle_features and self.feature_order != "original":
            text = "cannot be combined with data.shuffle_features=true"
            yield Conflict("data.feature_order", self.feature_order, text, "one of the two")
        if self.feature_order == "chunk_shuffled" and self.chunk_length >= self.final_seq_length:
            text = f"leaves fewer than two chunks of data.final_seq_length={self.final_seq_length}"
            limit = f"a whole number from 1 to {self.final_seq_length - 1}"
            yield Conflict("data.chunk_length", self.chunk_length, text, limit)
        if self.zero_window >= self.final_seq_length:
            text = f"leaves nothing of data.final_seq_length={self.final_seq_length}"
            yield Conflict("data.zero_window", self.zero_window, text, f"a whole number below {self.final_seq_length}")
        if self.stream and self.batch_order == "shuffled":
            yield Conflict("data.batch_order", "shuffled", "a stream has no order to shuffle", "sequential")


class Signals(Data):
    """Signals that the generator makes; its own arguments keep their published names."""

    num_samples: int = Field(ge=10, multiple_of=10, description="samples drawn, training and test together")
    train_split: float = Field(gt=0, lt=1, description="share of the samples used for training")
    template_len: Positive = Field(description="points of a digit's template")
    padding: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = Field(
        strict=False, description="fewest and most zeros appended to a template"
    )
    scale_coeff: Size = Field(description="width of the random amplitude, around 1")
    max_translation: Positive = Field(description="circular shifts go from 0 to one below this")
    corr_noise_scale: Size = Field(description="size of the smooth noise that replaces the zeros")
    iid_noise_scale: Size = Field(description="size of the white noise added everywhere")
    shear_scale: Size = Field(description="size of the random slope")
    shuffle_seq: bool = Field(description="the generator's own feature permutation, drawn after the samples")
    final_seq_length: int = Field(ge=2, description="positions of a sample after resampling")

    @property
    def parts(self) -> tuple[int, int]:
        kept = int(self.num_samples * self.train_split)
        return kept, self.num_samples - kept

    @property
    def padded_len(self) -> int:
        """Points of a sample before it is resampled to `final_seq_length`."""
        return self.template_len + self.padding[1]

    def conflicts(self) -> Iterator[Fault]:
        yield from self._split_conflicts()
        yield from self._signal_conflicts()
        yield from self._order_conflicts()

    def _signal_conflicts(self) -> Iterator[Fault]:
        low, high = self.padding
        if low > high:
            text = "the first number must not exceed the second"
            yield Conflict("data.padding", self.padding, text, f"two whole numbers in order, as [{high},{low}]")
        elif self.max_translation > self.padded_len:
            text = f"shifts by more than the {self.padded_len} points of a padded template"
            limit = f"a whole number from 1 to {self.padded_len} (template_len + the larger padding)"
            yield Conflict("data.max_translation", self.max_translation, text, limit)


class Images(Data):
    """Flattened images of a set in `mnist1d.image_sets`."""

    num_samples: Annotated[int, Field(ge=2)] | None = Field(
        description="samples used, training and test together, drawn evenly from the classes; null takes all"
    )
    train_split: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="share of the samples used for training, drawn anew; null is the published split"
    )
    final_seq_length: Positive = Field(description="values of a sample: its pixels, row by row")
    row_length: Positive = Field(description="values in a row of pixels")
    colours: Positive = Field(description="values of a pixel")

    @property
    def facts(self) -> ImageSet:
        """The set's facts."""
        return IMAGE_SETS[self.name]

    @property
    def parts(self) -> tuple[int, int]:
        return part_sizes(self.facts, self.num_samples, self.train_split)

    def conflicts(self) -> Iterator[Fault]:
        most = self.facts.samples
        if (self.num_samples or 0) > most:
            text = f"{self.name} has {most} samples"
            yield Conflict("data.num_samples", self.num_samples, text, f"a whole number from 2 to {most}, or null")
        elif self.train_split is None and not self.facts.has_split:
            text = f"no split of {self.name} was published"
            yield Conflict("data.train_split", self.train_split, text, "a number above 0 and below 1")
        else:
            yield from self._split_conflicts()
        yield from self._order_conflicts()
        yield from self._shape_conflicts()
        if self.stream:
            yield Conflict("data.stream", True, f"{self.name} has no generator to draw fresh samples", "false")

    def _shape_conflicts(self) -> Iterator[Fault]:
        facts = self.facts
        keys = {"final_seq_length": facts.length, "row_length": facts.row_length, "colours": facts.shape[2]}
        for key, fact in keys.items():
            if (given := getattr(self, key)) != fact:
                text = f"images of {self.name} are {' × '.join(map(str, facts.shape))}"
                yield Conflict(f"data.{key}", given, text, str(fact))


def _kind(data: Any) -> str:
    name = data.get("name") if isinstance(data, Mapping) else getattr(data, "name", None)
    return Images.__name__ if name in IMAGE_SETS else Signals.__name__


AnyData = Annotated[
    Annotated[Signals, Tag(Signals.__name__)] | Annotated[Images, Tag(Images.__name__)], Discriminator(_kind)
]
"""Told apart by the name: one of an image set, or any other for a file of the generator's arguments."""
_ANY_DATA: TypeAdapter[Data] = TypeAdapter(AnyData)


def make_data(values: Mapping[str, Any]) -> Data:
    """The data section with these values, as they stand in conf/ or beside recorded weights.

    Raises `pydantic.ValidationError` for values that make none.
    """
    return _ANY_DATA.validate_python(values)


class Architecture(BaseModel):
    """Keys of the shipped architectures. A model of your own may use these, with these types, and others."""

    hidden: Positive = Field(description="hidden units: of each layer (mlp), of the state in each direction (gru)")
    layers: Positive = Field(description="hidden layers (mlp), convolutions (dilated_cnn), encoder layers (attention)")
    step_size: Positive = Field(description="values that a recurrent net reads at a time step")
    row_length: Positive | None = Field(description="values in a row of pixels; null: a signal is an image of one row")
    colours: Positive = Field(description="values of a pixel")
    residual: bool = Field(description="skip connection round every hidden layer but the first")
    dropout: Decay = Field(description="share of hidden units that is dropped in training")
    channels: Positive = Field(description="channels of every convolution")
    kernel_sizes: Annotated[list[Positive], Field(min_length=1)] = Field(description="width of each convolution")
    kernel_size: Positive = Field(description="width of every convolution")
    blocks: Positive = Field(description="residual blocks of two convolutions each")
    width: Positive = Field(description="size of a token")
    heads: Positive = Field(description="attention heads")
    pooling: Literal["none", "stride", "max", "avg", "l2", "blur", "max_blur"] = Field(
        description="how a layer shortens the signal"
    )
    window: Positive = Field(description="positions that pooling makes one of, or the stride of convolutions")
    pool_stride: Positive | None = Field(description="positions from one window to the next; null: as many as it has")
    activation: (
        Literal["relu", "elu", "swish", "gelu", "mish", "softplus", "tanh", "sigmoid", "sine", "hand_fit"]
        | Annotated[
            str,
            Field(
                pattern="^learned:(best|[0-9a-f]{32})$", title="learned:best, learned:RUN_ID (32 hexadecimal digits)"
            ),
        ]
    ) = Field(description="elementwise function of the hidden units")


def _adapter(field: FieldInfo) -> TypeAdapter[Any]:
    annotation: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


_ARCHITECTURE = {key: _adapter(field) for key, field in Architecture.model_fields.items()}


class Model(Section, extra="allow"):
    """One architecture; its own keys are exactly those of its YAML file."""

    name: str = Field(description="the architecture: a file in conf/model/")
    target: str = Field(alias="_target_", description="the class that builds it")
    input_size: Positive = Field(description="positions of an input signal")
    num_classes: int = Field(ge=10, description="outputs, one for each digit")

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the class: every key but the name and the class itself."""
        return {"input_size": self.input_size, "num_classes": self.num_classes, **(self.model_extra or {})}

    @property
    def learned(self) -> str | None:
        """What follows `learned:` in `activation`, best or a run id; None for a function that has a name."""
        kind, _, run_id = str(self.options.get("activation")).partition(":")
        return run_id if kind == "learned" else None

    def conflicts(self) -> Iterator[Fault]:
        faults = list(self._architecture_faults())
        yield from faults or [*self._length_conflicts(), *self._kernel_conflicts(), *self._head_conflicts()]

    def _architecture_faults(self) -> Iterator[Fault]:
        for key, value in (self.model_extra or {}).items():
            if key not in _ARCHITECTURE:
                continue
            try:
                _ARCHITECTURE[key].validate_python(value)
            except ValidationError:
                field = Architecture.model_fields[key]
                close = nearest(value, choices(field.annotation)) if isinstance(value, str) else ()
                text = f"must be {allowed(field.annotation, field.metadata)}"
                yield Fault(f"model.{key}", value, text, nearest=close)

    def _length_conflicts(self) -> Iterator[Fault]:
        extra = self.model_extra or {}
        for key in ("step_size", "row_length"):
            if self.input_size % (extra.get(key) or 1):
                text = f"does not divide the {self.input_size} positions of an input signal"
                yield Conflict(f"model.{key}", extra[key], text, "one of its divisors")
        if (row := extra.get("row_length") or self.input_size) % extra.get("colours", 1):
            yield Conflict("model.colours", extra["colours"], f"does not divide a row of {row}", "one of its divisors")
        if not {"kernel_sizes", "pooling"} <= extra.keys():
            return
        lengths = [self.input_size]
        for kernel in extra["kernel_sizes"]:
            shortened = extra["pooling"], extra.get("window", 2), extra.get("pool_stride")
            lengths.append(convolved_length(lengths[-1], kernel, *shortened))
            if lengths[-1] < 1:
                text = f"leaves no position of {self.input_size} with model.pooling={extra['pooling']}"
                yield Conflict("model.kernel_sizes", extra["kernel_sizes"], text, "fewer or narrower convolutions")
                return

    def _kernel_conflicts(self) -> Iterator[Fault]:
        """Centred kernels have a middle; what doubles its dilation from layer to layer stays within the signal."""
        extra = self.model_extra or {}
        kernel = extra.get("kernel_size", 1)
        if self.name in ("resnet", "dilated_cnn", "attention") and kernel % 2 == 0:
            yield Conflict("model.kernel_size", kernel, "has no middle position", "an odd whole number")
        depth = {"tcn": "blocks", "dilated_cnn": "layers"}.get(self.name)
        if depth in extra and 2 ** (extra[depth] - 1) >= self.input_size:
            most = (self.input_size - 1).bit_length()
            text = f"the last dilation, {2 ** (extra[depth] - 1)}, reaches past {self.input_size} positions"
            yield Conflict(f"model.{depth}", extra[depth], text, f"a whole number from 1 to {most}")

    def _head_conflicts(self) -> Iterator[Fault]:
        extra = self.model_extra or {}
        if {"width", "heads"} <= extra.keys() and (width := extra["width"]) % extra["heads"]:
            divisors = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
            yield Conflict("model.heads", extra["heads"], f"does not divide model.width={width}", divisors)


def convolved_length(length: int, kernel: int, pooling: str, window: int = 2, stride: int | None = None) -> int:
    """Positions left of `length` after one convolution (padding 1) and its pooling."""
    full, step = length + 2 - kernel + 1, stride or window
    if full < 1 or pooling == "none":
        return full
    if pooling in ("stride", "blur"):
        return -(-full // step)
    return -(-(full - window + 1) // step)


class Optimizer(Section):
    """Keys that every update rule has; both may differ between the members of a stack."""

    lr: float = Field(gt=0, description="learning rate")
    weight_decay: Size = Field(description="L2 penalty, added to the gradient; for adamw decoupled from it")


class Adam(Optimizer):
    """Adam and AdamW."""

    name: Literal["adam", "adamw"] = Field(description="the update rule: a file in conf/optimizer/")
    betas: tuple[Decay, Decay] = Field(
        strict=False, description="decay of the running means of gradient and squared gradient"
    )
    eps: float = Field(gt=0, description="added to the root of the squared gradient")


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = Field(description="the update rule: a file in conf/optimizer/")
    momentum: Decay = Field(description="decay of the velocity; 0 is plain gradient descent")


class RMSprop(Optimizer):
    """RMSprop without momentum."""

    name: Literal["rmsprop"] = Field(description="the update rule: a file in conf/optimizer/")
    alpha: Share = Field(description="decay of the running mean of the squared gradient; 1: it stays at initial")
    eps: float = Field(gt=0, description="added to its root")
    initial: Size = Field(description="what that mean starts at")

    def conflicts(self) -> Iterator[Fault]:
        if self.alpha == 1 and self.initial == 0:
            yield Conflict("optimizer.alpha", 1, "the mean would stay at optimizer.initial=0", "a number below 1")


class Trainer(Section):
    """Length of training, evaluation and hardware."""

    max_steps: Positive = Field(description="optimiser steps")
    eval_every: Positive = Field(description="steps between evaluations")
    eval_samples: Positive | None = Field(description="training samples evaluated, the first ones; null takes all")
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(description="where to train")
    memory: float = Field(gt=0, description="memory a stack may take, in GiB")
    stack: Positive | None = Field(description="most runs in a stack; null lets the planner decide")
    threads: Positive | None = Field(description="CPU threads; null takes all cores")
    checkpoint_seconds: Annotated[float, Field(ge=0)] | None = Field(
        description="least seconds between checkpoints of a fit, from which the same command goes on; null: none"
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        description="of single-precision matrix products, as in torch.set_float32_matmul_precision"
    )
    may_diverge: bool = Field(description="whether a run that stops being finite leaves the exit status at 0")


class Tracking(Section):
    """Where results are recorded."""

    uri: str = Field(min_length=1, description="where MLflow keeps runs: a local file or a server")
    experiment: str = Field(min_length=1, description="MLflow experiment that collects the runs")


class Run(Section):
    """One resolved config, seed included."""

    seed: Seed = Field(description="draws initial weights and batch order")
    experiment: str | None = Field(description="experiment this run belongs to: a file in conf/experiment/")
    profile: Literal["smoke", "quick", "paper"] = Field(description="how much work an experiment does")
    profiles: dict[str, dict[str, Any]] = Field(description="what each profile means, set by the experiment")
    force: bool = Field(description="train runs that are recorded already once more")
    plan: bool = Field(description="show what would run, and train nothing")
    sync: bool = Field(description="record what was kept while a server was away, and train nothing")
    task: Annotated[
        Classification | Recipe | Lottery | Contrastive | MetalearnLr | MetalearnActivation | Embedding,
        Field(discriminator="name"),
    ]
    model: Model
    data: AnyData
    optimizer: Annotated[Adam | SGD | RMSprop, Field(discriminator="name")]
    trainer: Trainer
    tracking: Tracking

    def flat(self) -> dict[str, Any]:
        """Dotted key -> plain value (numbers, text, lists) of all keys that describe the run itself: without
        `tracking`, `profiles`, `force`, `plan` and `sync`."""
        asides = {"tracking", "profiles", "force", "plan", "sync"}
        return dict(_flatten(self.model_dump(by_alias=True, exclude=asides)))

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.task.steps(self.trainer.max_steps)

    def conflicts(self) -> Iterator[Fault]:
        yield from self._task_conflicts()
        if self.model.input_size != self.data.final_seq_length:
            length = self.data.final_seq_length
            text = f"differs from data.final_seq_length={length}, which sets it"
            yield Conflict("model.input_size", self.model.input_size, text, str(length))
        if self.experiment is None and self.profile != "paper":
            yield Conflict("profile", self.profile, "has no meaning without experiment=NAME")
        if self.experiment is not None and self.profile not in self.profiles:
            yield Conflict("profile", self.profile, f"experiment {self.experiment} has none", ", ".join(self.profiles))

    def _task_conflicts(self) -> Iterator[Fault]:
        if isinstance(self.task, Recipe):
            yield from self._recipe_conflicts(self.task)
        if not isinstance(self.task, Classification) and (share := self.model.options.get("dropout")):
            yield Conflict("model.dropout", share, f"task={self.task.name} trains without", "0")
        if isinstance(self.task, Contrastive):
            yield from self._contrastive_conflicts(self.task)
        if isinstance(self.task, MetalearnLr | MetalearnActivation):
            yield from self._metalearning_conflicts()
        if isinstance(self.task, Lottery):
            yield from self._lottery_conflicts(self.task)
        if isinstance(self.task, Embedding):
            yield from self._embedding_conflicts(self.task)
        for key, limit in (("follow_ups", "[]"), ("trials", "0")):
            if isinstance(self.data, Images) and (value := getattr(self.task, key, None)):
                text = f"{self.data.name} has no fresh samples: another seed would test on what was seen"
                yield Conflict(f"task.{key}", value, text, limit)

    def _recipe_conflicts(self, task: Recipe) -> Iterator[Fault]:
        length = self.data.final_seq_length
        for key, most, text in (
            ("shift", length, "goes more than once round"),
            ("test_shift", (length - 1) // 2, "has a shift twice in"),
        ):
            if (value := getattr(task, key)) > most:
                text = f"{text} the circle of data.final_seq_length={length}"
                yield Conflict(f"task.{key}", value, text, f"a whole number from 0 to {most}")
        unfit = self._unfit_for_augmentation()
        for key in (*AUGMENTATIONS, "test_shift") if unfit else ():
            if value := getattr(task, key):
                yield Conflict(f"task.{key}", value, f"changes signals as the generator makes them; {unfit}", "0")

    def _unfit_for_augmentation(self) -> str:
        """Why the generator's transformations have no place with these data; empty where they have."""
        data = self.data
        if not isinstance(data, Signals):
            return f"data={data.name} are images"
        as_made = {"shuffle_features": False, "shuffle_seq": False, "feature_order": "original"}
        changed = [f"data.{key}={spelled(getattr(data, key))}" for key in as_made if getattr(data, key) != as_made[key]]
        return f"positions are permuted by {' and '.join(changed)}" if changed else ""

    def _contrastive_conflicts(self, task: Contrastive) -> Iterator[Fault]:
        if not {"kernel_sizes", "pooling"} <= self.model.options.keys():
            yield Conflict("model.name", self.model.name, "has no convolutions, which task=contrastive trains", "cnn")
        elif (activation := self.model.options.get("activation")) not in (None, "relu"):
            yield Conflict("model.activation", activation, "task=contrastive trains one kind of unit", "relu")
        for key, only in (("window", 2), ("pool_stride", None)):
            if (value := self.model.options.get(key, only)) != only:
                yield Conflict(f"model.{key}", value, "task=contrastive has pooling of one size", spelled(only))
        if task.neighbours > (rows := self.data.rows[0]):
            text = f"more than the {rows} training samples"
            yield Conflict("task.neighbours", task.neighbours, text, f"a whole number from 1 to {rows}")
        if task.train_on == "all" and self.data.stream:
            yield Conflict("task.train_on", "all", "a stream has no samples but those for training", "train")

    def _metalearning_conflicts(self) -> Iterator[Fault]:
        """What learning by gradients through trainings asks of them: they are written out for one net and two rules."""
        task, rule = f"task={self.task.name}", self.optimizer
        if self.model.name != "shallow":
            yield Conflict("model.name", self.model.name, f"has no gradient written out, which {task} needs", "shallow")
        if self.model.learned is not None:
            text = f"a table cannot be differentiated as often as {task} needs"
            yield Conflict("model.activation", self.model.options["activation"], text, "a function that has a name")
        plain = rule.weight_decay == 0 and not (isinstance(rule, SGD) and rule.momentum)
        if isinstance(self.task, MetalearnLr) and not (isinstance(rule, SGD) and plain):
            text = f"{task} learns the rate of plain gradient descent"
            yield Conflict("optimizer.name", rule.name, text, "sgd with momentum and weight_decay 0")
        if isinstance(self.task, MetalearnActivation) and not (isinstance(rule, RMSprop) and plain):
            text = f"{task} trains by its running mean squares"
            yield Conflict("optimizer.name", rule.name, text, "rmsprop with weight_decay 0")
        if self.data.stream:
            yield Conflict("data.stream", True, f"{task} trains on the same samples again and again", "false")

    def _lottery_conflicts(self, task: Lottery) -> Iterator[Fault]:
        steps, rows = self.trainer.max_steps, self.data.rows[0]
        for key, value, last in (("mask_step", task.mask_step, steps - 1), ("rewind_step", task.rewind_step, steps)):
            if value > last:
                yield Conflict(f"task.{key}", value, f"a round has trainer.max_steps={steps}", f"0 to {last}")
        if task.follow_ups and task.follow_up_batch_size > rows and not self.data.stream:
            text, limit = f"more than the {rows} training samples", f"a whole number from 1 to {rows}"
            yield Conflict("task.follow_up_batch_size", task.follow_up_batch_size, text, limit)
        if "window_zeroed" in task.follow_ups and (length := self.data.final_seq_length) <= FOLLOW_UP_WINDOW:
            text = f"a window of {FOLLOW_UP_WINDOW} leaves nothing of data.final_seq_length={length}"
            yield Conflict("task.follow_ups", task.follow_ups, text, "others than window_zeroed")

    def _embedding_conflicts(self, task: Embedding) -> Iterator[Fault]:
        """What t-SNE asks of the rest: its own descent, the linear model it is set beside, and enough samples."""
        rule, (train, held_out, test) = self.optimizer, self.data.rows
        if self.model.name != "logistic":
            text = "is not the linear model that task=embedding sets neighbours beside"
            yield Conflict("model.name", self.model.name, text, "logistic")
        if not isinstance(rule, SGD) or rule.weight_decay:
            text = "task=embedding moves by gradient descent with momentum"
            yield Conflict("optimizer.name", rule.name, text, "sgd with weight_decay 0")
        if self.data.stream:
            yield Conflict("data.stream", True, "a stream has no samples to put into the plane", "false")
        for key, most in (("perplexity", (train + held_out + test - 1) // 3), ("neighbours", train + held_out)):
            if (value := getattr(task, key)) > most:
                text = f"too many for {train + held_out} training and {test} test samples"
                yield Conflict(f"task.{key}", value, text, f"a whole number from 1 to {most}")


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value
