"""Command lines that nobody would think of: refused in order, or sound in truth; never a traceback, never a file.

What Hydra itself makes of a command line is the judge: its own loader composes what `check` accepts, its own sweeper
makes the jobs. A long search: ``HYPOTHESIS_EXAMPLES=5000 python -m pytest tests/test_fuzz.py``.
"""

import os
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from hydra.utils import instantiate
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mnist1d.compose import current_job
from mnist1d.config import check, parse
from mnist1d.config.validate import schema_keys
from tests.conftest import ROOT
from tests.test_train import train

CONF = ROOT / "conf"
EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "40"))
GROUPS = {folder.name: [file.stem for file in folder.glob("*.yaml")] for folder in CONF.iterdir() if folder.is_dir()}
GROUPS = {name: options for name, options in GROUPS.items() if options}  # hydra has but groups of its own
HYDRA = ("run.dir", "sweep.dir", "sweep.subdir", "output_subdir", "mode", "verbose", "job.chdir", "job.name", "help")
HYDRA += (
    "sweeper.max_batch_size",
    "launcher.executor",
    "launcher.workers",
    "searchpath",
    "job.env_set",
    "sweeper.grids",
)
FOREIGN = "  config  "
"""What a report begins with where only a general exception was caught."""


# -- command lines ----------------------------------------------------------------------------------------


@st.composite
def near_misses(draw: st.DrawFn, words: st.SearchStrategy[str]) -> str:
    """A word with a letter too few, too many or replaced."""
    word = draw(words)
    place, letter = draw(st.integers(0, len(word))), draw(st.sampled_from(["", "s", ".", "_", "0", "/", "@", "ü", " "]))
    return word[:place] + letter + word[place + draw(st.integers(0, 1)) :]


known = st.sampled_from([*schema_keys(), *GROUPS, *(f"hydra.{key}" for key in HYDRA), "hydra/launcher"])
keys = known | known | near_misses(known) | st.text(max_size=8)
options = st.sampled_from([name for names in GROUPS.values() for name in names])
WORDS = ["null", "true", "False", "nan", "inf", "-inf", "1e400", "???", "''", '""', "\\", "[]", "{}", "*", "a b"]
WORDS += ["${seed}", "${data.seed}", "${oc.env:NOPE}", "${oc.env:HOME}", "${hydra:job.num}", "${now:%Y}", "${"]
WORDS += ["glob(*)", "glob(*n*)", "range(3)", "range(0,1,0.5)", "1,2", "mlp,cnn", "{seed:1}", "\\${x}"]
WORDS += ["../x", "/", "~", "\x00", "\x1b[31m", "\n", "\udcff", "\u202e", "é", "x" * 3000, "[" * 300, "9" * 400]
numbers = st.integers(-3, 300).map(str) | st.integers().map(str) | st.floats().map(str)
scalars = numbers | numbers | options | st.sampled_from(WORDS) | st.text(max_size=6)


def joined(parts: st.SearchStrategy[str], form: str) -> st.SearchStrategy[str]:
    return st.lists(parts, max_size=4).map(lambda found: form.format(",".join(found)))


values = st.recursive(
    scalars,
    lambda inner: (
        joined(inner, "[{}]")
        | joined(inner, "{}")
        | joined(inner, "choice({})")
        | joined(inner, "glob({})")
        | joined(numbers, "range({})")
        | joined(numbers, "interval({})")
        | joined(inner, "sort({})")
        | joined(inner, "shuffle({})")
        | joined(inner, "tag(a,{})")
        | joined(st.tuples(keys, inner).map(":".join), "{{{}}}")
        | inner.map("'{}'".format)
    ),
    max_leaves=5,
)


@st.composite
def overrides(draw: st.DrawFn) -> str:
    """One argument that sets something, or is not far from it."""
    group = draw(st.sampled_from([*GROUPS, None, None, None]))
    if group is not None:
        return f"{group}={draw(st.sampled_from(GROUPS[group]))}"
    sign = draw(st.sampled_from(["", "", "", "", "", "+", "++", "~"]))
    equals = draw(st.sampled_from(["=", "=", "=", "=", "=", "=", "=", ":", "==", ""]))
    return f"{sign}{draw(keys)}{equals}{draw(values)}"


flags = st.sampled_from([[], [], ["-m"], ["-m"], ["--multirun"]])
lines = st.tuples(flags, st.lists(overrides(), max_size=4)).map(lambda parts: [*parts[0], *parts[1]])


# -- the judge --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loader() -> ConfigLoaderImpl:
    version.setbase("1.3")
    setup_globals()
    return ConfigLoaderImpl(create_config_search_path(str(CONF)))


def jobs(argv: list[str], loader: ConfigLoaderImpl) -> Iterator[Any]:
    """The configs that Hydra composes, by its own loader and basic sweeper."""
    args = get_args_parser().parse_args(argv)
    master = loader.load_configuration("config", args.overrides, RunMode.MULTIRUN if args.multirun else RunMode.RUN)
    if not (args.multirun or str(master.hydra.mode).endswith("MULTIRUN")):
        yield master
        return
    sweeper = instantiate(master.hydra.sweeper)
    sweeper.hydra_context = SimpleNamespace(config_loader=loader)
    parser = OverridesParser.create(config_loader=loader)
    typed = parser.parse_overrides(list(master.hydra.overrides.task))
    for batch in sweeper.split_arguments(typed, None):
        for job in islice(batch, 5):
            yield loader.load_sweep_config(master, job)


def assert_sound(argv: list[str], loader: ConfigLoaderImpl) -> None:
    found = 0
    for number, cfg in enumerate(jobs(argv, loader)):
        cfg.hydra.job.num, cfg.hydra.job.id, cfg.hydra.runtime.output_dir = number, str(number), ""
        with current_job(cfg):
            parse(cfg)
        found += 1
    assert found


@given(argv=lines)
@example(argv=["data={seed:1}", "data.seed=2"])
@example(argv=["-m", "seed=range(0,3,0)"])
@example(argv=["-m", "seed=range(1000000000)"])
@example(argv=["seed=" + "[" * 3000])
@example(argv=["x" * 3000 + "=1"])
@example(argv=["hydra.run.dir=${nope}"])
@example(argv=["-m", "model=glob(*)"])
@example(argv=["hydra.run.dir=a\x00b"])
@settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES < 1000,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_command_line_is_refused_in_order_or_sound(
    argv: list[str],
    loader: ConfigLoaderImpl,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status = 0
    try:
        check(argv)
    except SystemExit as stop:
        status = stop.code
    told = capsys.readouterr().err
    if status:
        assert status == 2
        assert told.startswith("usage: ") or " in the configuration:\n" in told
        assert FOREIGN not in told
        assert told.replace("\n", "").isprintable()
        assert len(told) < 40_000
    else:
        assert_sound(argv, loader)
    assert list(tmp_path.iterdir()) == []


NASTY = (
    "seed=" + "[" * 3000,
    "-m seed=range(1000000000)",
    "-m data={seed:1},{seed:2} data.seed=3 model.hidden=10,x tracking.uri=\x1b[31m trainer.max_steps=1000000000000000",
)


@pytest.mark.parametrize("line", NASTY, ids=range(len(NASTY)))
def test_the_worst_of_them_leave_nothing_behind_in_the_real_program(line: str, tmp_path: Path) -> None:
    done = train(tmp_path, *shlex.split(line), "plan=true")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert " in the configuration:" in done.stderr
    assert list(tmp_path.iterdir()) == []
