"""The check of a command line: every fault, all of them together, in words that are pinned here."""

import subprocess
import sys
from itertools import product
from pathlib import Path
from textwrap import dedent
from typing import Any, get_args

import pytest
from omegaconf import OmegaConf
from pydantic import ValidationError

from mnist1d.compose import Composer
from mnist1d.config import ConfigError, Data, Run, check, launcher, limits, parse, parse_or_refuse, validate
from mnist1d.config.schema import Architecture, convolved_length
from mnist1d.data import corruption

ROOT = Path(__file__).resolve().parents[1]
SHELL = (
    "import sys; from mnist1d.config import check; check(sys.argv[1:]); "
    "assert not {'torch', 'mlflow', 'pytorch_lightning'} & set(sys.modules)"
)


def report(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What `train.py <command>` prints about its faults, without the line that counts them."""
    with pytest.raises(SystemExit) as stop:
        check(command.split())
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.partition("\n")[2].rstrip("\n")


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    return Composer.of(ROOT / "conf").base("config", []).resolved


def shell(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-c", SHELL, *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_sound_command_line_passes_silently_and_imports_nothing_heavy() -> None:
    done = shell("-m", "model=glob(*)", "seed=range(20)", "data.label_noise=0,0.15", "optimizer.lr=0.01")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "hydra" in done.stderr  # the import log works, so the next lines mean something
    for heavy in ("torch", "pytorch_lightning", "mlflow", "matplotlib", "scipy"):
        assert f" {heavy}\n" not in done.stderr


def test_all_faults_come_together_with_key_value_allowed_and_nearest() -> None:
    done = shell(
        "-m", "model=mpl", "model.hiden=3", "data.label_noise=0,1.5,abc", "data.train_split=1",
        "optimizer.lr=-1", "model.hidden=0,10", "data.padding=[60,36]", "seed=range(-1,2)",
        "optimzer=sgd", "hidden=3",
    )  # fmt: skip
    assert done.returncode == 2
    assert " torch\n" not in done.stderr
    told = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert told == dedent("""\
        11 faults in the configuration:
          model=mpl             no such option; nearest: mlp; \
allowed: attention, cnn, cnn2d, dilated_cnn, gru, logistic, mlp, resnet, shallow, tcn
          model.hiden=3         no such key; nearest: model.hidden
          optimzer=sgd          no such key; nearest: optimizer
          hidden=3              no such key; nearest: model.hidden
          data.label_noise=1.5  must be a number from 0 to 1
          data.label_noise=abc  must be a number from 0 to 1
          data.train_split=1    must be a number above 0 and below 1
          optimizer.lr=-1       must be a number above 0
          model.hidden=0        must be a whole number of at least 1
          seed=-1               must be a whole number from 0 to 4294967295
          data.padding=[60,36]  the first number must not exceed the second; \
allowed: two whole numbers in order, as [36,60]""")


MODELS = ", ".join(sorted(file.stem for file in (ROOT / "conf/model").glob("*.yaml")))
WITH_CHANNELS = "model=cnn and model=cnn2d and model=dilated_cnn and model=resnet and model=tcn"
EXPERIMENTS = ", ".join(sorted(file.stem for file in (ROOT / "conf/experiment").glob("*.yaml")))
ACTIVATION = (
    "one of relu, elu, swish, gelu, mish, softplus, tanh, sigmoid, sine, hand_fit or learned:best, "
    "learned:RUN_ID (32 hexadecimal digits)"
)
SEARCH = "-m hydra/sweeper=optuna data.val_split=0.1 model.layers=1,2"
FORMS = "an interval or several values; allowed: interval(a,b), tag(log,interval(a,b)), range(a,b), choice(a,b) or a,b"
MESSAGES = {
    "model=ggru": f"model=ggru  no such option; nearest: gru; allowed: {MODELS}",
    "experiment=clasification": (
        f"experiment=clasification  no such option; nearest: classification; allowed: {EXPERIMENTS}"
    ),
    "hydra/launcher=stak": "hydra/launcher=stak  no such option; nearest: stack; allowed: basic, stack",
    "data.num_sample=500": "data.num_sample=500  no such key; nearest: data.num_samples, data.test_samples",
    "experiment=null": f"experiment=null  no such option; allowed: {EXPERIMENTS}",
    "lr=0.1": "lr=0.1  no such key; nearest: optimizer.lr",
    "+lr=0.1": "+lr=0.1  no such key; nearest: optimizer.lr",
    "nonsense=1": "nonsense=1  no such key",
    "model.channels=3": f"model.channels=3  model=mlp has no such key, {WITH_CHANNELS} have",
    "optimizer.momentum=0.5": "optimizer.momentum=0.5  optimizer=adam has no such key, optimizer=sgd has",
    "optimizer=sgd optimizer.eps=1": (
        "optimizer.eps=1  optimizer=sgd has no such key, optimizer=adam and optimizer=adamw and optimizer=rmsprop have"
    ),
    "model.activation=relo": f"model.activation=relo  must be {ACTIVATION}; nearest: relu",
    "model.activation=learned:a42bf1": f"model.activation=learned:a42bf1  must be {ACTIVATION}",
    "model=gru model.activation=tanh": (
        "model.activation=tanh  model=gru has no such key, model=cnn and model=mlp and model=shallow have"
    ),
    "model=logistic model.activation=learned:best": (
        "model.activation=learned:best  model=logistic has no such key, model=cnn and model=mlp and model=shallow have"
    ),
    "task=contrastive model=cnn model.activation=elu": (
        "model.activation=elu  task=contrastive trains one kind of unit; allowed: relu"
    ),
    "task=metalearn_lr model=shallow optimizer=sgd optimizer.momentum=0 model.activation=learned:best": (
        "model.activation=learned:best  a table cannot be differentiated as often as task=metalearn_lr needs; "
        "allowed: a function that has a name"
    ),
    "model.layers=0": "model.layers=0  must be a whole number of at least 1",
    "-m model=mlp,cnn model.channels=3,4": f"model.channels=3,4  model=mlp has no such key, {WITH_CHANNELS} have",
    "model.name=cnn": (f"model.name=cnn  follows from the group: type model=cnn; allowed: {MODELS}"),
    "+seed=1": "+seed=1  exists already: leave out the +",
    "+model=cnn": "+model=cnn  exists already: leave out the +",
    "~optimizer": "~optimizer  neither keys nor groups can be removed",
    "seed=1 seed=2": "seed  given twice, as 1 and as 2",
    "model=mlp model=cnn": "model  given twice, as mlp and as cnn",
    "seed=1 ++seed=2": "seed  given twice, as 1 and as 2",
    "-m seed=1,2 seed=3": "seed  given twice, as 1,2 and as 3",
    "data={seed:1} data.seed=2": "data.seed  given twice, as 1 and as 2",
    "-m data={seed:1},{seed:2} data.seed=2": "data.seed  given twice, as {seed:1},{seed:2} and as 2",
    "model.hidden=3 ~model.hidden": "~model.hidden  neither keys nor groups can be removed",
    "seed=range(a)": (
        "seed=range(a)  cannot be read; allowed: key=value, key=[a,b]; with -m also key=a,b or 'key=range(5)'"
    ),
    "-m model.hidden=10,x": "model.hidden=x  must be a whole number of at least 1",
    "-m seed=range(3,1)": "seed=range(3,1)  matches nothing",
    "-m seed=range(1.5)": (
        "seed=0.0  must be a whole number from 0 to 4294967295\n  seed=1.0  must be a whole number from 0 to 4294967295"
    ),
    "-m seed=range(0,3,0)": (
        "seed=range(0,3,0)  never ends; allowed: range(stop), range(start,stop), range(start,stop,step); step not 0"
    ),
    "seed=\x1b[31m": (
        "seed=\\x1b[31m  cannot be read; allowed: key=value, key=[a,b]; with -m also key=a,b or 'key=range(5)'"
    ),
    "hydra.run.dir=${nope}": "hydra.run.dir  Interpolation key 'nope' not found",
    "seed=1,2": "seed=1,2  several values: add -m to sweep over them, or type a list as key=[a,b]",
    "seed=range(9)": ("seed=0,1,2,…,8  several values: add -m to sweep over them, or type a list as key=[a,b]"),
    "-m optimizer.lr=interval(0,1)": (
        "optimizer.lr=interval(0,1)  an interval has no list of values; allowed: a,b,c or range(start,stop,step)"
    ),
    "-m hydra/sweeper=optuna data.val_split=0.1": f"hydra.sweeper.params  nothing to search: no key has {FORMS}",
    f"{SEARCH} optimizer.lr=interval(1,0.1)": (
        "optimizer.lr=interval(1,0.1)  the lower end must come first; allowed: interval(0.1,1)"
    ),
    f"{SEARCH} optimizer.weight_decay=tag(log,interval(0,1))": (
        "optimizer.weight_decay=tag(log,interval(0,1))  has no logarithm at its lower end; allowed: a lower end above 0"
    ),
    f"{SEARCH} model.hidden=tag(log,choice(8,16))": (
        "model.hidden=tag(log,choice(8,16))  only an interval can be logarithmic; allowed: tag(log,interval(a,b))"
    ),
    f"{SEARCH} optimizer.lr=tag(a,interval(0.1,1))": "optimizer.lr=tag(a,interval(0.1,1))  no tag a; allowed: log",
    f"{SEARCH} data.label_noise=interval(0,2)": "data.label_noise=2.0  must be a number from 0 to 1",
    f"{SEARCH} optimizer.lrr=interval(0,2)": "optimizer.lrr=0.0,2.0  no such key; nearest: optimizer.lr",
    f"{SEARCH} seed=1,2": (
        "seed=1,2  the search gives its candidates their seeds; allowed: hydra.sweeper.seeds=N for 0 to N-1"
    ),
    "-m hydra/sweeper=optuna optimizer.lr=interval(0.1,1)": (
        "data.val_split=0.0  a search compares candidates on validation data; "
        "allowed: a number above 0 and below 1, as 0.1"
    ),
    f"{SEARCH} task=lottery": "task=lottery  has no validation accuracy to search by; allowed: classification, recipe",
    f"{SEARCH} hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials=0  must be a whole number of at least 1",
    f"{SEARCH} hydra.sweeper.seeds=1001": "hydra.sweeper.seeds=1001  must be a whole number from 1 to 1000",
    f"{SEARCH} hydra.sweeper.batch=0": "hydra.sweeper.batch=0  must be a whole number of at least 1 or null",
    f"{SEARCH} hydra.sweeper.objective=test/acc_final": (
        "hydra.sweeper.objective=test/acc_final  a search never chooses by test data; "
        "allowed: val/acc_final, val/loss_final"
    ),
    f"{SEARCH} hydra.sweeper.objective=val/f1": (
        "hydra.sweeper.objective=val/f1  a search has no such objective; allowed: val/acc_final, val/loss_final"
    ),
    f"{SEARCH} hydra.sweeper.objective=val/loss_final": (
        "hydra.sweeper.direction=maximize  would look for the worst val/loss_final; allowed: minimize"
    ),
    f"{SEARCH} hydra.sweeper.storage=study.db": (
        "hydra.sweeper.storage=study.db  must be the URL of a database; "
        "allowed: sqlite:///PATH.db, postgresql://…, mysql://… or null"
    ),
    f"{SEARCH} +hydra.sweeper.params.seed='[a'": (
        "hydra.sweeper.params.seed=[a  cannot be read; allowed: interval(a,b), tag(log,interval(a,b)), range(a,b), "
        "choice(a,b) or a,b"
    ),
    f"{SEARCH} hydra/sweeper/sampler=tp": (
        "hydra/sweeper/sampler=tp  no such option; nearest: tpe; allowed: random, tpe"
    ),
    "experiment=classification hydra/sweeper=optuna": (
        "hydra/sweeper=optuna  experiment=classification brings a sweep for another sweeper"
    ),
    "experiment=tune hydra.sweeper.max_batch_size=4": (
        "hydra.sweeper.max_batch_size=4  hydra/sweeper=optuna has no such key, hydra/sweeper=grids has"
    ),
    "-m hydra.sweeper.n_trials=4": (
        "hydra.sweeper.n_trials=4  hydra/sweeper=grids has no such key, hydra/sweeper=optuna has"
    ),
    "-m model=glob(x*)": f"model=glob(x*)  matches nothing; allowed: {MODELS}",
    "-m hydra.verbose=true,false": "hydra.verbose=true,false  Hydra's own settings cannot be swept",
    "-m experiment=classification profile=smoke,quick": ("profile=smoke,quick  takes one value for a whole sweep"),
    "experiment=classification profile=quik": "profile=quik  must be one of smoke, quick, paper",
    "profile=quick": "profile=quick  has no meaning without experiment=NAME",
    "seed": ("seed  not of the form key=value; allowed: key=value, key=[a,b]; with -m also key=a,b or 'key=range(5)'"),
    "model.hidden=[3": (
        "model.hidden=[3  cannot be read; allowed: key=value, key=[a,b]; with -m also key=a,b or 'key=range(5)'"
    ),
    "seed=${sed}": "seed  Interpolation key 'sed' not found",
    "seed=1.5": "seed=1.5  must be a whole number from 0 to 4294967295",
    "seed=true": "seed=true  must be a whole number from 0 to 4294967295",
    "model.residual=1": "model.residual=1  must be true or false",
    "model=cnn model.pooling=mean": "model.pooling=mean  must be one of none, stride, max, avg, l2, blur, max_blur",
    "model=cnn model.kernel_sizes=[]": (
        "model.kernel_sizes=[]  must be a list of whole numbers of at least 1, as [a,b], not empty"
    ),
    "model=cnn model.kernel_sizes=[30,30]": (
        "model.kernel_sizes=[30,30]  leaves no position of 40 with model.pooling=stride; "
        "allowed: fewer or narrower convolutions"
    ),
    "model=resnet model.kernel_size=4": ("model.kernel_size=4  has no middle position; allowed: an odd whole number"),
    "model=dilated_cnn model.kernel_size=2": (
        "model.kernel_size=2  has no middle position; allowed: an odd whole number"
    ),
    "model=attention model.kernel_size=0": "model.kernel_size=0  must be a whole number of at least 1",
    "model=dilated_cnn model.layers=7": (
        "model.layers=7  the last dilation, 64, reaches past 40 positions; allowed: a whole number from 1 to 6"
    ),
    "model=tcn model.blocks=6 data.final_seq_length=32": (
        "model.blocks=6  the last dilation, 32, reaches past 32 positions; allowed: a whole number from 1 to 5"
    ),
    "model=attention model.heads=5": ("model.heads=5  does not divide model.width=32; allowed: 1, 2, 4, 8, 16, 32"),
    "model.input_size=30": ("model.input_size=30  differs from data.final_seq_length=40, which sets it; allowed: 40"),
    "data.num_samples=4999": "data.num_samples=4999  must be a whole number of at least 10, a multiple of 10",
    "data.num_samples=10 data.batch_size=1 data.train_split=0.01": (
        "data.train_split=0.01  leaves no training sample of data.num_samples=10"
    ),
    "data.val_split=0.0001": (
        "data.val_split=0.0001  holds out none of 4000 training samples; allowed: 0, or at least 0.00025"
    ),
    "data.val_split=0.5 data.batch_size=2001": (
        "data.batch_size=2001  more than the 2000 training samples; allowed: a whole number from 1 to 2000"
    ),
    "data.test_samples=1001": (
        "data.test_samples=1001  more than the 1000 test samples; allowed: a whole number from 1 to 1000"
    ),
    "-m experiment=double_descent model=gru": (
        "model=gru  no part of the experiment has it in profile=paper; allowed: mlp, cnn"
    ),
    "-m experiment=double_descent model=mlp model.channels=3": (
        f"model.channels=3  model=mlp has no such key, {WITH_CHANNELS} have"
    ),
    "task=embedding optimizer=sgd": (
        "model.name=mlp  is not the linear model that task=embedding sets neighbours beside; allowed: logistic"
    ),
    "task=embedding model=logistic": (
        "optimizer.name=adam  task=embedding moves by gradient descent with momentum; allowed: sgd with weight_decay 0"
    ),
    "task=embedding model=logistic optimizer=sgd data.stream=true": (
        "data.stream=true  a stream has no samples to put into the plane; allowed: false"
    ),
    "task=embedding model=logistic optimizer=sgd data.num_samples=500 task.perplexity=167": (
        "task.perplexity=167  too many for 400 training and 100 test samples; allowed: a whole number from 1 to 166"
    ),
    "task=embedding model=logistic optimizer=sgd data.num_samples=500 task.neighbours=401": (
        "task.neighbours=401  too many for 400 training and 100 test samples; allowed: a whole number from 1 to 400"
    ),
    "task=contrastive model=cnn task.neighbours=4001": (
        "task.neighbours=4001  more than the 4000 training samples; allowed: a whole number from 1 to 4000"
    ),
    "task=contrastive model=cnn task.train_on=all data.stream=true": (
        "task.train_on=all  a stream has no samples but those for training; allowed: train"
    ),
    "task=contrastive model=cnn task.projector_depth=0 task.heads=2": (
        "task.heads=2  without a projector (task.projector_depth=0) there are none; allowed: 1"
    ),
    "optimizer=rmsprop optimizer.alpha=1": (
        "optimizer.alpha=1  the mean would stay at optimizer.initial=0; allowed: a number below 1"
    ),
    "trainer.matmul_precision=bf16": ("trainer.matmul_precision=bf16  must be one of highest, high, medium"),
    "claim=pooling": "claim=pooling  claims are no part of a run: analyze.py reads them",
    "page=pooling": "page=pooling  pages are no part of a run: analyze.py reads them",
    "data.padding=36": "data.padding=36  must be two whole numbers of at least 0, as [a,b]",
    "data.padding.0=61": (
        "data.padding=[61,60]  the first number must not exceed the second; "
        "allowed: two whole numbers in order, as [60,61]"
    ),
    "data.max_translation=73": (
        "data.max_translation=73  shifts by more than the 72 points of a padded template; "
        "allowed: a whole number from 1 to 72 (template_len + the larger padding)"
    ),
    "data.shuffle_features=true data.feature_order=reversed": (
        "data.feature_order=reversed  cannot be combined with data.shuffle_features=true; allowed: one of the two"
    ),
    "data.feature_order=chunk_shuffled data.chunk_length=40": (
        "data.chunk_length=40  leaves fewer than two chunks of data.final_seq_length=40; "
        "allowed: a whole number from 1 to 39"
    ),
    "data.zero_window=40": (
        "data.zero_window=40  leaves nothing of data.final_seq_length=40; allowed: a whole number below 40"
    ),
    "data=digits data.zero_window=64": (
        "data.zero_window=64  leaves nothing of data.final_seq_length=64; allowed: a whole number below 64"
    ),
    "data=digits data.train_split=null": (
        "data.train_split=null  no split of digits was published; allowed: a number above 0 and below 1"
    ),
    "data=mnist data.train_split=1": "data.train_split=1  must be a number above 0 and below 1 or null",
    "data=mnist data.num_samples=70001": (
        "data.num_samples=70001  mnist has 70000 samples; allowed: a whole number from 2 to 70000, or null"
    ),
    "data=mnist data.num_samples=1": "data.num_samples=1  must be a whole number of at least 2 or null",
    "data=cifar10 data.final_seq_length=3000": (
        "data.final_seq_length=3000  images of cifar10 are 32 × 32 × 3; allowed: 3072"
    ),
    "data=digits data.row_length=16": "data.row_length=16  images of digits are 8 × 8 × 1; allowed: 8",
    "data=digits data.stream=true": "data.stream=true  digits has no generator to draw fresh samples; allowed: false",
    "data=digits data.batch_size=1438": (
        "data.batch_size=1438  more than the 1437 training samples; allowed: a whole number from 1 to 1437"
    ),
    "data=digits data.padding=[1,2]": "data.padding=[1,2]  data=digits has no such key, data=mnist1d has",
    "data.name=digits": (
        "data.name=digits  follows from the group: type data=digits; "
        "allowed: cifar10, digits, fashion_mnist, mnist, mnist1d, mnist_subset"
    ),
    "data=mnits": (
        "data=mnits  no such option; nearest: mnist, mnist1d; "
        "allowed: cifar10, digits, fashion_mnist, mnist, mnist1d, mnist_subset"
    ),
    "model=gru model.step_size=3": (
        "model.step_size=3  does not divide the 40 positions of an input signal; allowed: one of its divisors"
    ),
    "model=cnn2d data=digits model.row_length=7": (
        "model.row_length=7  does not divide the 64 positions of an input signal; allowed: one of its divisors"
    ),
    "model=cnn2d data=cifar10 model.colours=5": (
        "model.colours=5  does not divide a row of 96; allowed: one of its divisors"
    ),
    "data=cifar10 data.colours=1": "data.colours=1  images of cifar10 are 32 × 32 × 3; allowed: 3",
    "task=contrastive model=cnn2d": (
        "model.name=cnn2d  has no convolutions, which task=contrastive trains; allowed: cnn"
    ),
    "task=metalearn_activation model=shallow optimizer=rmsprop data=digits": (
        "task.trials=20  digits has no fresh samples: another seed would test on what was seen; allowed: 0"
    ),
    "task=recipe task.shift=41": (
        "task.shift=41  goes more than once round the circle of data.final_seq_length=40; "
        "allowed: a whole number from 0 to 40"
    ),
    "task=recipe task.test_shift=20": (
        "task.test_shift=20  has a shift twice in the circle of data.final_seq_length=40; "
        "allowed: a whole number from 0 to 19"
    ),
    "task=recipe data.final_seq_length=41 task.test_shift=21": (
        "task.test_shift=21  has a shift twice in the circle of data.final_seq_length=41; "
        "allowed: a whole number from 0 to 20"
    ),
    "task=recipe data=digits task.shift=1 task.test_shift=2": (
        "task.shift=1       changes signals as the generator makes them; data=digits are images; allowed: 0\n"
        "  task.test_shift=2  changes signals as the generator makes them; data=digits are images; allowed: 0"
    ),
    "task=recipe data.feature_order=reversed task.iid_noise_scale=0.1": (
        "task.iid_noise_scale=0.1  changes signals as the generator makes them; "
        "positions are permuted by data.feature_order=reversed; allowed: 0"
    ),
    "task=recipe data.shuffle_features=true task.test_shift=1": (
        "task.test_shift=1  changes signals as the generator makes them; "
        "positions are permuted by data.shuffle_features=true; allowed: 0"
    ),
    "task=recipe data.shuffle_seq=true task.scale_coeff=0.1": (
        "task.scale_coeff=0.1  changes signals as the generator makes them; "
        "positions are permuted by data.shuffle_seq=true; allowed: 0"
    ),
    "task=recipe task.average_decay=1": "task.average_decay=1  must be a number from 0 and below 1",
    "task=recipe task.rate_schedule=step": ("task.rate_schedule=step  must be one of constant, cosine, one_cycle"),
    "task=lottery data=digits": (
        "task.follow_ups=[fresh,reversed,shuffled,half_swapped,chunk_shuffled]  "
        "digits has no fresh samples: another seed would test on what was seen; allowed: []"
    ),
    "task=lottery task.follow_ups=[fresh,window_zeroed] data.final_seq_length=10": (
        "task.follow_ups=[fresh,window_zeroed]  a window of 10 leaves nothing of data.final_seq_length=10; "
        "allowed: others than window_zeroed"
    ),
    "task=lottery model.dropout=0.1": "model.dropout=0.1  task=lottery trains without; allowed: 0",
    "model.dropout=1": "model.dropout=1  must be a number from 0 and below 1",
    "task=contrastive model=cnn model.window=3": (
        "model.window=3  task=contrastive has pooling of one size; allowed: 2"
    ),
    "model=cnn model.pooling=max model.window=10": (
        "model.kernel_sizes=[5,3,3]  leaves no position of 40 with model.pooling=max; "
        "allowed: fewer or narrower convolutions"
    ),
    "data.stream=true data.batch_order=shuffled": (
        "data.batch_order=shuffled  a stream has no order to shuffle; allowed: sequential"
    ),
    "optimizer.betas=[0.9,1]": "optimizer.betas=[0.9,1]  must be two numbers from 0 and below 1, as [a,b]",
    "trainer.stack=0": "trainer.stack=0  must be a whole number of at least 1 or null",
    "trainer.memory=null": "trainer.memory=null  must be a number above 0",
    "trainer.accelerator=tpu": "trainer.accelerator=tpu  must be one of auto, cpu, gpu, cuda, mps",
    "tracking.uri=": "tracking.uri=  must be text, not empty",
    "hydra.sweeper.max_batch_sise=2": (
        "hydra.sweeper.max_batch_sise=2  no such key; nearest: hydra.sweeper.max_batch_size"
    ),
    "hydra.sweeper.max_batch_size=two": (
        "hydra.sweeper.max_batch_size=two  Value 'two' of type 'str' could not be converted to Integer"
    ),
    "hydra/launcher=basic hydra.launcher.x=1": "hydra.launcher.x=1  no such key",
    "hydra/launcher=basic hydra.launcher.executor=processes": (
        "hydra.launcher.executor=processes  hydra/launcher=basic has no such key, hydra/launcher=stack has"
    ),
    "hydra.launcher.executor=proceses": (
        "hydra.launcher.executor=proceses  must be one of serial, processes, ray, submitit; nearest: processes"
    ),
    "hydra.launcher.executor=processes hydra.launcher.workers=0": (
        "hydra.launcher.workers=0  must be a whole number of at least 1 or null"
    ),
    "hydra.launcher.workers=2": (
        "hydra.launcher.workers=2  has no meaning without hydra.launcher.executor=processes, ray or submitit"
    ),
    "hydra.launcher.executor=ray hydra.launcher.cpus=0": (
        "hydra.launcher.cpus=0  must be a whole number of at least 1 or null"
    ),
    "hydra.launcher.executor=ray hydra.launcher.gpus=1.5": (
        "hydra.launcher.gpus=1.5  must be a whole number of at least 0, or a part of one"
    ),
    "hydra.launcher.executor=submitit hydra.launcher.gpus=0.5": (
        "hydra.launcher.gpus=0.5  must be a whole number of at least 0"
    ),
    "hydra.launcher.executor=processes hydra.launcher.gpus=1": (
        "hydra.launcher.gpus=1.0  has no meaning without hydra.launcher.executor=ray or submitit"
    ),
    "hydra.launcher.executor=ray hydra.launcher.ray.address=ray://head:10001": (
        "hydra.launcher.ray.address=ray://head:10001  must be HOST:PORT of a cluster's head node, auto or null"
    ),
    "hydra.launcher.executor=submitit hydra.launcher.ray.address=auto": (
        "hydra.launcher.ray.address=auto  has no meaning without hydra.launcher.executor=ray"
    ),
    "hydra.launcher.ray.adress=auto": (
        "hydra.launcher.ray.adress=auto  no such key; nearest: hydra.launcher.ray.address"
    ),
    "hydra.launcher.executor=submitit hydra.launcher.submitit.cluster=slum": (
        "hydra.launcher.submitit.cluster=slum  must be one of auto, slurm, local, debug; nearest: slurm"
    ),
    "hydra.launcher.executor=submitit hydra.launcher.submitit.timeout=0": (
        "hydra.launcher.submitit.timeout=0  must be a whole number of at least 1 (minutes)"
    ),
    "hydra.launcher.executor=submitit hydra.launcher.submitit.memory=-1": (
        "hydra.launcher.submitit.memory=-1.0  must be a number above 0 (GB) or null"
    ),
    "hydra.launcher.executor=ray hydra.launcher.submitit.partition=long": (
        "hydra.launcher.submitit.partition=long  has no meaning without hydra.launcher.executor=submitit"
    ),
    "hydra.launcher.executor=submitit hydra.launcher.submitit.parameters={account:x}": (
        "hydra.launcher.submitit.parameters={account:x}  takes new keys one by one: "
        "+hydra.launcher.submitit.parameters.NAME=VALUE"
    ),
    "hydra.launcher.workers=two": (
        "hydra.launcher.workers=two  Value 'two' of type 'str' could not be converted to Integer"
    ),
    "~hydra.sweeper.grids.tried": (
        "~hydra.sweeper.grids.tried  Could not delete from config. 'hydra.sweeper.grids.tried' does not exist."
    ),
    "experiment=metalearn_activation hydra.sweeper.grids.correct.seed=3": (
        "hydra.sweeper.grids.correct.seed=3  no such key; nearest: hydra.sweeper.grids.reference.seed, "
        "hydra.sweeper.grids.corrected.seed, hydra.sweeper.grids.standard.seed"
    ),
    "~hydra.sweep": "~hydra.sweep  HydraConf (DictConfig) does not support deletion",
    "seed@foo=3": "seed@foo=3  keys and groups stay in their place: leave out the @",
    "model@foo=cnn": "model@foo=cnn  keys and groups stay in their place: leave out the @",
    "=3": "=3  cannot be read; allowed: key=value, key=[a,b]; with -m also key=a,b or 'key=range(5)'",
    "optimizer=sdg": "optimizer=sdg  no such option; nearest: sgd; allowed: adam, adamw, rmsprop, sgd",
    "model={name:x}": f"model.name=x  follows from the group: type model=x; allowed: {MODELS}",
    "-m model={name:x},{name:mlp}": (f"model.name=x  follows from the group: type model=x; allowed: {MODELS}"),
    "-m model=mlp,{name:x}": "model=mlp,{name:x}  sweeps over options and over keys at once",
    "model={hiden:3}": "model.hiden=3  no such key; nearest: model.hidden",
    "-m seed=0,1,0": "seed=0  given twice",
    "-m optimizer.lr=0.1,1e-1": "optimizer.lr=0.1  given twice",
    "-m model=cnn,cnn": "model=cnn  given twice",
    "data.padding=[1]": "data.padding=[1]  must be two whole numbers of at least 0, as [a,b]",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9]  must be two numbers from 0 and below 1, as [a,b]",
    "--config-dir=/nowhere": "--config-dir=/nowhere  no such folder",
}


TOO_MUCH = {
    "seed=range(1000000000)": (
        "seed=range(1000000000)  1000000000 runs take 100 TB of memory to plan, this machine has 16 GB; "
        "allowed: at most about 160000 at a time"
    ),
    "-m seed=range(100000) data.seed=range(100)": (
        "seed=range(100000) data.seed=range(100)  10000000 runs take 1.0 TB of memory to plan, this machine has 16 GB; "
        "allowed: at most about 160000 at a time"
    ),
    "data.num_samples=1000000000000": (
        "data.num_samples=1000000000000  samples of data.final_seq_length=40 values take 960 TB of memory to make, "
        "this machine has 16 GB"
    ),
    "data.padding=[0,10000000]": (
        "data.padding=[0,10000000]  10000001 × 10 templates of 10000012 points take 8.0 PB of memory, "
        "this machine has 16 GB"
    ),
    "-m trainer.max_steps=10,1000000000000000": (
        "trainer.max_steps=1000000000000000  takes 317 years at 10 µs a step, which nothing here reaches"
    ),
    "trainer.max_steps=100000000000": (
        "trainer.max_steps=100000000000  takes 72 GB of memory for the schedule of 100000000000 steps, "
        "this machine has 16 GB"
    ),
    "trainer.max_steps=100000000 trainer.eval_every=1": (
        "trainer.eval_every=1  evaluates 100000001 times: 105 GB on disk, where 50 GB are free"
    ),
}


@pytest.mark.parametrize("command", TOO_MUCH)
def test_what_cannot_fit_is_refused_with_the_figure(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "memory", lambda: 16 * 10**9)
    monkeypatch.setattr(limits, "free_disk", lambda _uri: 50 * 10**9)
    assert report(capsys, command) == f"  {TOO_MUCH[command]}"


def test_a_large_sweep_that_fits_is_not_refused() -> None:
    check(["-m", "model=mlp,cnn", "seed=range(10000)"])
    assert limits.memory() > 10**9
    assert limits.free_disk("sqlite:///no/such/folder/mlflow.db") == limits.free_disk("sqlite:///mlflow.db")
    assert limits.free_disk("http://127.0.0.1:5000") is None


def test_an_endless_value_is_shown_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = report(capsys, f"seed={'x' * 9000}").splitlines()
    assert line.startswith("  seed=xxx")
    assert line.endswith("x…xxxxxxxxxxxxxxxxxxx  must be a whole number from 0 to 4294967295")
    assert len(line) < 300


def test_hydras_settings_do_not_hide_other_faults(capsys: pytest.CaptureFixture[str]) -> None:
    told = report(capsys, "hydra.sweeper.max_batch_sise=2 hydra.mode=foo model.hidden=0")
    assert told.splitlines() == [
        "  hydra.sweeper.max_batch_sise=2  no such key; nearest: hydra.sweeper.max_batch_size",
        "  hydra.mode=foo                  Invalid value 'foo', expected one of [RUN, MULTIRUN]",
        "  model.hidden=0                  must be a whole number of at least 1",
    ]


def test_a_key_that_takes_one_value_still_has_each_examined(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(capsys, "experiment=foo,classification").splitlines() == [
        "  experiment=foo,classification  takes one value for a whole sweep",
        f"  experiment=foo                 no such option; allowed: {EXPERIMENTS}",
    ]


@pytest.mark.parametrize("command", MESSAGES)
def test_a_fault_is_told_in_these_words(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(capsys, command) == f"  {MESSAGES[command]}"


@pytest.mark.parametrize("missing", ["ray", "submitit"])
def test_an_executor_whose_package_is_missing_says_how_to_get_it(
    missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "find_spec", lambda name: None if name == missing else True)
    extra = {"ray": "ray", "submitit": "slurm"}[missing]
    assert report(capsys, f"hydra.launcher.executor={missing}") == (
        f"  hydra.launcher.executor={missing}  needs a package that is not installed: "
        f"python -m pip install -c constraints.txt -e '.[{extra}]'"
    )


def test_slurm_is_refused_where_its_commands_are_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "hydra.launcher.executor=submitit hydra.launcher.submitit.cluster=slurm"
    monkeypatch.setattr(launcher, "which", lambda name: None if name == "srun" else name)
    assert report(capsys, command) == (
        "  hydra.launcher.submitit.cluster=slurm  this machine has no sbatch and srun; allowed: auto, local, debug"
    )
    monkeypatch.setattr(launcher, "which", str)
    check(command.split())


@pytest.mark.parametrize(
    "command",
    [
        "",
        "hydra.launcher.executor=ray hydra.launcher.gpus=0.5 hydra.launcher.ray.address=head:6379",
        "hydra.launcher.executor=submitit hydra.launcher.cpus=2 +hydra.launcher.submitit.parameters.account=x",
        "-m model=mlp model.hidden=10,20,50,100 data.label_noise=0.15",
        "-m experiment=classification profile=smoke",
        "experiment=classification seed=0 model=mlp",
        "experiment=metalearn_activation ~hydra.sweeper.grids.tried hydra.sweeper.grids.corrected.seed=3",
        "-m model=cnn model.channels=range(2,6) seed=0,1 hydra/launcher=basic",
        "++seed=3 data={num_samples:50,batch_size:40}",
        "experiment=tune model=cnn optimizer.lr=tag(log,interval(0.001,1)) model.channels=int(interval(5,9))",
        "data.max_translation=72 data.chunk_length=39 data.feature_order=chunk_shuffled data.zero_window=39",
        "model=cnn data.final_seq_length=8 model.kernel_sizes=[3,3] model.pooling=none",
        "data.stream=true data.batch_size=9000 data.val_split=0.1",
        "task=recipe task.shift=40 task.test_shift=19",
        "task=recipe task.label_smoothing=0.1 data=digits",
        "seed=${data.seed} tracking.uri=http://127.0.0.1:5000 trainer.threads=2",
        "--help model=mpl",
        "--cfg job model=mpl",
        "--info defaults model=mpl",
    ],
)
def test_nothing_is_said_about_a_sound_command_line(command: str) -> None:
    check(command.split())


def test_faults_of_swept_combinations_are_found_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    command = "-m seed=range(50) data.num_samples=100,1000 data.batch_size=50,90 optimizer.lr=0.1,1"
    assert report(capsys, command) == (
        "  data.batch_size=90  more than the 80 training samples; allowed: a whole number from 1 to 80"
    )


def test_a_flood_of_faults_is_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    lines = report(capsys, "-m model.hidden=range(-100,5)").splitlines()
    assert len(lines) == 31
    assert lines[-1] == "  … and 71 more"


def test_a_typo_is_never_answered_with_a_plus(capsys: pytest.CaptureFixture[str]) -> None:
    told = report(capsys, "model.hiden=3 sed=3 data.foo=3 hydra.foo=1")
    assert "+" not in told


def test_unknown_flags_are_refused_by_the_argument_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        check(["--multrun"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --multrun" in capsys.readouterr().err


def test_help_shows_commands_and_groups_without_heavy_imports() -> None:
    script = dedent("""
        import sys, hydra
        from mnist1d.config import check
        check(sys.argv[1:])
        @hydra.main(config_path="conf", config_name="config", version_base="1.3")
        def main(cfg): raise AssertionError("nothing runs")
        main()
    """)
    command = [sys.executable, "-X", "importtime", "-c", script, "--help", f"--config-path={ROOT / 'conf'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "python train.py -m experiment=classification profile=quick" in done.stdout
    assert f"model: {MODELS}\n" in done.stdout
    assert " torch\n" not in done.stderr


def test_parse_gives_typed_frozen_values(defaults: dict[str, Any]) -> None:
    run = parse(OmegaConf.create(defaults))
    assert (run.seed, run.profile, run.experiment) == (0, "paper", None)
    assert run.model.target == "mnist1d.models.MLP"
    assert run.model.options == {
        "input_size": 40,
        "num_classes": 10,
        "hidden": 100,
        "layers": 2,
        "residual": True,
        "dropout": 0.0,
        "activation": "relu",
    }
    assert run.data.padding == (36, 60)
    assert run.data.rows == (4000, 0, 1000)
    assert run.optimizer.lr == 0.01
    with pytest.raises(ValidationError):
        run.seed = 1


def test_parse_ignores_hydras_own_node(defaults: dict[str, Any]) -> None:
    assert parse(OmegaConf.create({**defaults, "hydra": {"job": {"num": 3}}})) == parse(OmegaConf.create(defaults))


def test_flat_names_every_value_of_the_run_and_nothing_else(defaults: dict[str, Any]) -> None:
    flat = parse(OmegaConf.create(defaults)).flat()
    assert flat["seed"] == 0
    assert flat["model._target_"] == "mnist1d.models.MLP"
    assert flat["data.padding"] == [36, 60]
    assert flat["optimizer.betas"] == [0.9, 0.999]
    assert not [key for key in flat if key.startswith(("tracking", "profiles", "hydra"))]
    assert not [value for value in flat.values() if isinstance(value, dict | tuple)]


def changed(defaults: dict[str, Any], section: str, **changes: Any) -> dict[str, Any]:
    return {**defaults, section: {**defaults[section], **changes}}


def test_parse_collects_faults_of_all_sections(defaults: dict[str, Any]) -> None:
    values = changed(changed(defaults, "data", label_noise=2, foo=1), "trainer", max_steps=0)
    with pytest.raises(ConfigError) as error:
        validate(values)
    assert [fault.key for fault in error.value.faults] == [
        "data.label_noise",
        "data.foo",
        "trainer.max_steps",
    ]
    assert "data.foo" in str(error.value)
    del values["data"]["seed"]
    with pytest.raises(ConfigError, match=r"data\.seed +is missing"):
        validate(values)


def test_an_optimizer_takes_its_own_keys_only(defaults: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.momentum +no such key"):
        validate(changed(defaults, "optimizer", momentum=0.9))
    with pytest.raises(ConfigError, match=r"optimizer\.name=lion +must be one of adam, adamw, sgd"):
        validate(changed(defaults, "optimizer", name="lion"))


OWN_MODEL = """
# A model of the user's own, 1 parameter.
name: own  # its name
_target_: my.models.Own  # its class
input_size: ${data.final_seq_length}  # positions
num_classes: 10  # outputs
hidden: 4  # a name with a central limit
depth: 2  # a key that only this model has
jitter: 0.1  # a number
"""


@pytest.fixture
def own_conf(tmp_path: Path) -> Path:
    """A copy of conf/ to which a user has added a model by one file."""
    for file in (ROOT / "conf").rglob("*.yaml"):
        copy = tmp_path / file.relative_to(ROOT / "conf")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    (tmp_path / "model" / "own.yaml").write_text(OWN_MODEL)
    return tmp_path


def test_a_model_added_by_one_file_is_checked_like_the_shipped_ones(
    own_conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(["-m", "model=own,mlp", "seed=0,1"], own_conf)
    check(["-m", "model=own", "model.depth=1,2", "model.jitter=0,0.5"], own_conf)
    with pytest.raises(SystemExit):
        check(["-m", "model=own", "model.depth=1,2.5,deep", "model.hidden=0", "model.jitter=true"], own_conf)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  model.depth=2.5    must be a whole number, like its default 2",
        "  model.depth=deep   must be a whole number, like its default 2",
        "  model.hidden=0     must be a whole number of at least 1",
        "  model.jitter=true  must be a number, like its default 0.1",
    ]


@pytest.mark.parametrize("flag", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_a_model_in_a_folder_of_ones_own_is_checked_alike(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own.yaml").write_text(OWN_MODEL)
    folder = flag.format(tmp_path)
    check(["-m", folder, "model=own,mlp", "seed=0,1"])
    with pytest.raises(SystemExit) as stop:
        check([folder, "model=own", "model.dept=2", "model.jitter=true", "data.label_noise=2", "optimizer=sdg"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  optimizer=sdg       no such option; nearest: sgd; allowed: adam, adamw, rmsprop, sgd",
        "  model.dept=2        no such key; nearest: model.depth",
        "  model.jitter=true   must be a number, like its default 0.1",
        "  data.label_noise=2  must be a number from 0 to 1",
    ]


FILES = {
    "trainr: {max_steps: 3}": "trainr  no such key; nearest: trainer, tracking",
    "trainer: {max_stepz: 3}": "trainer.max_stepz  no such key; nearest: trainer.max_steps",
    "hydra: {sweeper: {params: {seeed: 1}}, mode: MULTIRUN}": "seeed=1  no such key; nearest: seed",
    "trainer: [1": "{}  cannot be read: expected ',' or ']', but got '<stream end>' (line 5)",
}


@pytest.mark.parametrize("text", FILES)
def test_a_fault_in_the_file_of_an_experiment_is_told_by_its_key(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text(f"# @package _global_\nexperiment: mine\nprofiles: {{paper: {{}}}}\n{text}\n")
    assert report(capsys, f"--config-dir={tmp_path} experiment=mine") == f"  {FILES[text].format(file)}"


def test_values_of_every_combination_of_sizes_agree_with_the_splits(defaults: dict[str, Any]) -> None:
    for train_split, val_split in ((0.8, 0.0), (0.25, 0.1), (0.9, 0.3)):
        data = changed(defaults, "data", train_split=train_split, val_split=val_split)
        rows = validate(data).data.rows
        assert sum(rows) == 5000
        assert rows[0] + rows[1] == int(5000 * train_split)


def test_a_run_is_equal_to_itself_only(defaults: dict[str, Any]) -> None:
    other = validate({**defaults, "seed": 1})
    assert isinstance(other, Run)
    assert other != validate(defaults)
    assert validate(defaults) == validate(defaults)


def test_parse_or_refuse_tells_the_faults_of_all_configs(
    defaults: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sound, *faulty = [OmegaConf.create({**defaults, "seed": seed}) for seed in (3, -1, -2)]
    assert [run.seed for run in parse_or_refuse([sound])] == [3]
    with pytest.raises(SystemExit) as stop:
        parse_or_refuse([faulty[0], sound, faulty[1]])
    assert stop.value.code == 2
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()[1:]] == ["seed=-1", "seed=-2"]


def test_the_schema_knows_the_choices_and_lengths_of_the_code() -> None:
    """Written twice, as a check of the command line must not import scipy and torch."""
    from mnist1d.models import cnn

    choices = {key: get_args(field.annotation) for key, field in Data.model_fields.items()}
    assert choices["label_noise_mode"] == get_args(corruption.NoiseMode)
    assert choices["feature_order"] == get_args(corruption.FeatureOrder)
    assert get_args(Architecture.model_fields["pooling"].annotation) == cnn.POOLING
    sizes = ((2, None), (4, None), (3, 2), (1, 3))
    for length, kernel, pooling, size in product((2, 3, 8, 9, 40), (1, 2, 3, 5, 30), cnn.POOLING, sizes):
        expected = convolved_length(length, kernel, pooling, *size)
        options = {"channels": 1, "kernel_sizes": (kernel,), "window": size[0], "pool_stride": size[1]}
        if expected < 1:
            with pytest.raises(ValueError, match="too few"):
                cnn.CNN(length, pooling=pooling, **options)
        else:
            model = cnn.CNN(length, pooling=pooling, **options)
            assert model.linear.in_features == expected, (length, kernel, pooling)
