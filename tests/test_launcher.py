"""The stacking launcher: the same jobs as Hydra's own, given to the task at once."""

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mnist1d.compose import Composer

ROOT = Path(__file__).resolve().parents[1]

TASK = """
    import json, os, sys
    from pathlib import Path
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from mnist1d.config import parse_or_refuse

    def told(cfg):
        sweep, many = HydraConfig.get(), isinstance(cfg, list)
        configs = cfg if many else [cfg]
        for one, run in zip(configs, parse_or_refuse(configs)):
            hydra = one.hydra if many else sweep
            print(json.dumps({
                "call": type(cfg).__name__, "num": 0 if OmegaConf.is_missing(hydra.job, "num") else hydra.job.num,
                "overrides": list(hydra.overrides.task), "dir": hydra.runtime.output_dir,
                "sweep_dir": sweep.sweep.dir, "run": run.flat(),
            }))

    @hydra.main(config_path=CONF, config_name="config", version_base="1.3")
    def main(cfg):
        told(cfg)
        assert not {"torch", "mlflow"} & set(sys.modules)
        return BODY

    main()
    print(json.dumps("end"))
"""


def sweep(
    folder: Path,
    *argv: str,
    body: str = "[0.5] * len(cfg) if isinstance(cfg, list) else 0.5",
    status: int = 0,
) -> list[dict[str, Any]]:
    """What the task function was given, one entry per job, in a real process started in `folder`."""
    script = dedent(TASK).replace("CONF", repr(str(ROOT / "conf"))).replace("BODY", body)
    command = [sys.executable, "-W", "error", "-c", script, *argv]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == status, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if status == 0:
        assert done.stderr == ""
        assert lines.pop() == "end"
    else:
        lines.append({"stderr": done.stderr})
    return lines


@pytest.fixture(scope="module")
def loaders() -> tuple[Composer, ConfigLoaderImpl, DictConfig]:
    """Our loader, Hydra's, and the config of a sweep."""
    composer = Composer.of(ROOT / "conf")
    hydra = ConfigLoaderImpl(composer.config_search_path)
    master = hydra.load_configuration("config", ["hydra.verbose=true", "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
    setup_globals()
    assert str(master.hydra.sweep.dir) == str(master.hydra.sweep.dir)  # the sweep's time is now fixed
    return composer, hydra, master


OVERRIDES = [
    [],
    ["seed=3"],
    ["model=cnn", "model.channels=7", "seed=1"],
    ["model.hidden=10", "model=gru"],
    ["optimizer=sgd", "optimizer.lr=1e-3", "optimizer.momentum=0"],
    ["experiment=classification", "profile=quick", "model=logistic"],
    ["data.padding=[3,4]"],
    ["data.padding.0=5"],
    ["data={num_samples: 100, seed: 3}"],
    ["trainer.stack=null", "data.shuffle_features=True"],
    ["tracking.uri='a b=c'", 'tracking.experiment="x,y"'],
    ["seed=${data.seed}", "data.final_seq_length=30"],
    ["data.seed=${hydra:job.num}"],
    ["+model.depth=3"],
    ["++model.hidden=3"],
    ["~trainer.memory"],
    ["hydra.sweep.subdir=x${hydra.job.num}", "seed=2"],
    ["+data@other=mnist1d"],
    ["seed=2", "seed=3"],
]


def same(ours: DictConfig, theirs: DictConfig) -> bool:
    """Equal text (interpolations included), flags and memory of what has been resolved."""
    flags = [OmegaConf.is_struct(cfg) == OmegaConf.is_struct(cfg.model) is True for cfg in (ours, theirs)]
    kinds = [(OmegaConf.get_type(cfg, "hydra"), type(cfg.hydra.mode)) for cfg in (ours, theirs)]
    return (
        OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(theirs)
        and kinds[0] == kinds[1]
        and all(flags)
        and OmegaConf.get_cache(ours) == OmegaConf.get_cache(theirs)
    )


@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_a_cheaply_composed_job_equals_hydras(
    overrides: list[str], loaders: tuple[Composer, ConfigLoaderImpl, DictConfig]
) -> None:
    composer, hydra, master = loaders
    assert same(composer.load_sweep_config(master, overrides), hydra.load_sweep_config(master, overrides))


def test_the_comparison_would_notice_a_difference(
    loaders: tuple[Composer, ConfigLoaderImpl, DictConfig],
) -> None:
    composer, hydra, master = loaders
    assert not same(composer.load_sweep_config(master, ["seed=1"]), hydra.load_sweep_config(master, ["seed=2"]))
    loose = composer.load_sweep_config(master, ["seed=1"])
    OmegaConf.set_struct(loose, False)
    assert not same(loose, hydra.load_sweep_config(master, ["seed=1"]))


@pytest.mark.parametrize("overrides", [["sed=1"], ["model=mpl"], ["model.channels=2"], ["seed=1,2"], ["a b"]], ids=str)
def test_a_job_that_hydra_refuses_is_refused_alike(
    overrides: list[str], loaders: tuple[Composer, ConfigLoaderImpl, DictConfig]
) -> None:
    composer, hydra, master = loaders
    with pytest.raises(HydraException) as theirs:
        hydra.load_sweep_config(master, overrides)
    with pytest.raises(HydraException) as ours:
        composer.load_sweep_config(master, overrides)
    assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))


def test_jobs_with_the_same_choices_share_one_composition(
    loaders: tuple[Composer, ConfigLoaderImpl, DictConfig],
) -> None:
    _, _, master = loaders
    composer = Composer.of(ROOT / "conf")
    for seed in range(20):
        for model in ("mlp", "cnn"):
            cfg = composer.load_sweep_config(master, [f"model={model}", f"seed={seed}"])
            assert (cfg.seed, cfg.model.name) == (seed, model)
    assert len(composer._bases) == 2


@pytest.mark.parametrize(
    "change", [("seed", 7), ("data.final_seq_length", 30), ("data.padding.1", 70), ("profile", "quick")]
)
def test_plain_values_equal_the_resolved_config(
    change: tuple[str, Any], loaders: tuple[Composer, ConfigLoaderImpl, DictConfig]
) -> None:
    composer, hydra, master = loaders
    key, value = change
    overrides = ["experiment=classification", f"{key}={value}"]
    cfg = hydra.load_sweep_config(master, overrides)
    expected = {k: v for k, v in OmegaConf.to_container(cfg, resolve=False).items() if k != "hydra"}  # type: ignore[union-attr]
    OmegaConf.resolve(slim := OmegaConf.create(expected))
    values = composer.quick_values(master, overrides)
    assert values is not None
    assert values == OmegaConf.to_container(slim)
    assert composer.base_of(master, overrides).config(values) == slim


def test_a_grid_reaches_the_task_in_one_call_in_hydras_order(tmp_path: Path) -> None:
    told = sweep(tmp_path, "-m", "model=mlp", "model.hidden=10,20", "seed=range(3)")
    assert {job["call"] for job in told} == {"list"}
    assert [job["num"] for job in told] == [0, 1, 2, 3, 4, 5]
    assert [(job["run"]["model.hidden"], job["run"]["seed"]) for job in told] == [
        (hidden, seed) for hidden in (10, 20) for seed in (0, 1, 2)
    ]
    assert told[4]["overrides"] == ["model=mlp", "model.hidden=20", "seed=1"]
    assert [Path(job["dir"]).name for job in told] == list("012345")
    assert {Path(job["dir"]).parent for job in told} == {tmp_path / told[0]["sweep_dir"]}


def test_job_folders_hold_what_hydras_own_launcher_writes(tmp_path: Path) -> None:
    files: dict[str, dict[str, str]] = {}
    for launcher in ("stack", "basic"):
        told = sweep(tmp_path, "-m", "seed=1", "model=cnn,gru", f"hydra/launcher={launcher}", "hydra.sweep.dir=out")
        assert {job["call"] for job in told} == {"list" if launcher == "stack" else "DictConfig"}
        folder = tmp_path / "out" / "1"
        files[launcher] = {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}
        files[launcher]["told"] = json.dumps([{k: v for k, v in job.items() if k != "call"} for job in told])
    assert set(files["basic"]) == {".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "told"}
    launchers = [yaml.safe_load(files[name].pop(".hydra/hydra.yaml"))["hydra"] for name in ("stack", "basic")]
    for hydra in launchers:
        hydra["overrides"]["hydra"] = [text for text in hydra["overrides"]["hydra"] if "launcher" not in text]
        hydra["launcher"] = hydra["runtime"]["choices"]["hydra/launcher"] = None
    assert launchers[0] == launchers[1]
    assert files["stack"] == files["basic"]


def test_globs_and_batches_go_on_counting(tmp_path: Path) -> None:
    told = sweep(tmp_path, "-m", "model=glob([c*,g*,l*],exclude=cnn2d)", "hydra.sweeper.max_batch_size=2")
    assert [(job["num"], job["run"]["model.name"]) for job in told] == [
        (0, "cnn"),
        (1, "gru"),
        (2, "logistic"),
    ]
    assert [Path(job["dir"]).name for job in told] == ["0", "1", "2"]


def test_an_experiment_brings_its_sweep_and_the_command_line_wins(tmp_path: Path) -> None:
    told = sweep(tmp_path, "experiment=classification", "profile=smoke", "model=mlp", "data.val_split=0.2")
    runs = [job["run"] for job in told]
    assert [(run["data.shuffle_features"], run["seed"]) for run in runs] == [
        (False, 0),
        (False, 1),
        (True, 0),
        (True, 1),
    ]
    assert {(run["model.name"], run["data.val_split"], run["trainer.max_steps"]) for run in runs} == {("mlp", 0.2, 20)}
    assert {(run["experiment"], run["profile"]) for run in runs} == {("classification", "smoke")}


def test_a_single_run_gets_one_config_and_its_folder(tmp_path: Path) -> None:
    (job,) = sweep(tmp_path, "seed=5")
    assert (job["call"], job["num"], job["overrides"], job["run"]["seed"]) == ("DictConfig", 0, ["seed=5"], 5)
    assert (Path(job["dir"]) / ".hydra" / "config.yaml").is_file()
    assert not list(tmp_path.rglob("*.log"))


def test_values_that_know_their_job_are_resolved_per_job(tmp_path: Path) -> None:
    told = sweep(tmp_path, "-m", "seed=5,6", "data.seed='${hydra:job.num}'", "hydra.sweep.subdir='n${hydra:job.num}'")
    assert [Path(job["dir"]).name for job in told] == ["n0", "n1"]
    assert [job["overrides"][1] for job in told] == ["data.seed='0'", "data.seed='1'"]
    assert [(job["run"]["seed"], job["run"]["data.seed"]) for job in told] == [(5, 0), (6, 1)]


@pytest.mark.parametrize("launcher", [[], ["-m", "seed=1,2", "hydra/launcher=basic"], ["-m", "seed=1,2"]], ids=str)
def test_a_fault_that_reaches_the_task_ends_the_program_with_status_2(launcher: list[str], tmp_path: Path) -> None:
    (last,) = sweep(tmp_path, *launcher, "model.hidden=0", "data.label_noise=2", status=2)
    assert last["stderr"] == dedent("""\
        2 faults in the configuration:
          model.hidden=0      must be a whole number of at least 1
          data.label_noise=2  must be a number from 0 to 1
    """)


def test_an_error_of_the_task_itself_ends_the_program(tmp_path: Path) -> None:
    *_, last = sweep(tmp_path, "-m", "seed=range(2)", body="1 / 0", status=1)
    assert "ZeroDivisionError" in last["stderr"]
    *_, last = sweep(tmp_path, "-m", "seed=range(2)", body="[0.5]", status=1)
    assert "ValueError" in last["stderr"]


def test_no_job_starts_while_any_has_a_fault(tmp_path: Path) -> None:
    (last,) = sweep(tmp_path, "-m", "model.hidden=3,0,-1", "seed=range(2)", "data.label_noise=0,2", status=2)
    assert last["stderr"] == dedent("""\
        3 faults in the configuration:
          data.label_noise=2  must be a number from 0 to 1
          model.hidden=0      must be a whole number of at least 1
          model.hidden=-1     must be a whole number of at least 1
    """)
    assert not list(tmp_path.rglob(".hydra"))


CALLBACK = """
from hydra.experimental.callback import Callback

class Noting(Callback):
    def on_job_start(self, config, *, task_function, **kwargs):
        print('"start %s %s"' % (config.hydra.job.num, config.seed))
    def on_job_end(self, config, job_return, **kwargs):
        print('"end %s %s %s"' % (config.hydra.job.num, job_return.status.name, job_return.return_value))
"""


def test_callbacks_hear_of_every_job(tmp_path: Path) -> None:
    (tmp_path / "noting.py").write_text(CALLBACK)
    callback = "+hydra.callbacks.noting._target_=noting.Noting"
    body = "[0.25, float('nan')]"
    told = sweep(tmp_path, "-m", "seed=4,5", callback, "hydra.sweep.dir=out", body=body)
    assert [line for line in told if isinstance(line, str)] == [
        "start 0 4", "start 1 5", "end 0 COMPLETED 0.25", "end 1 COMPLETED nan",
    ]  # fmt: skip
