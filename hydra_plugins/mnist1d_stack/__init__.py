"""Hydra's door to the stacking launcher (`hydra/launcher=stack`) and to the sweepers (`hydra/sweeper=grids`, `optuna`).

The work is done in `mnist1d.launcher`, `mnist1d.grids` and `mnist1d.tune`.

Hydra imports every plugin when any Hydra program starts, and may import this file twice: keep it light.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig


@dataclass
class RayConf:
    """Settings of `executor=ray`."""

    address: str | None = None  # of a running cluster: HOST:PORT of its head node, or auto; null: one of this machine


@dataclass
class SubmititConf:
    """Settings of `executor=submitit`."""

    cluster: str = "auto"  # slurm; local: processes; debug: this process; auto: slurm where there is one, else local
    partition: str | None = None  # of Slurm; null: its default
    timeout: int = 240  # minutes for a stack; Slurm ends a job 90 s before
    memory: float | None = None  # GB for a stack; null: Slurm's default
    parameters: dict[str, Any] = field(default_factory=dict)  # sbatch's other options; +….parameters.account=x adds one


@dataclass
class StackLauncherConf:
    """Who trains the stacks; they are cut by `trainer.memory` and `trainer.stack`."""

    _target_: str = "hydra_plugins.mnist1d_stack.StackLauncher"
    executor: str = "serial"  # this process, a stack at a time; processes: several; ray: a cluster; submitit: Slurm
    workers: int | None = None  # stacks at a time; null: as many as there are cores for, on Slurm all
    cpus: int | None = None  # cores of each, for so many threads; null: its share of them, 1 on a running cluster
    gpus: float = 0  # GPUs of each; Ray takes fractions
    ray: RayConf = field(default_factory=RayConf)
    submitit: SubmititConf = field(default_factory=SubmititConf)


class StackLauncher(Launcher):
    """Gives all jobs of a sweep to the task function at once, which has them trained by `mnist1d.executors`."""

    def __init__(self, **settings: Any) -> None:
        pass  # the task function finds them in HydraConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the sweep starts."""
        from mnist1d.launcher import Launch

        self._launch = Launch(hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by Hydra's sweeper with one list of overrides per job."""
        return self._launch(job_overrides, initial_job_idx)


@dataclass
class GridSweeperConf:
    """Settings of the sweeper; an experiment's file gives `params` and `grids`."""

    _target_: str = "hydra_plugins.mnist1d_stack.GridSweeper"
    max_batch_size: int | None = None  # most jobs given to the launcher at once
    params: dict[str, str] = field(default_factory=dict)  # key -> values, in every grid
    grids: dict[str, dict[str, str]] = field(default_factory=dict)  # name -> key -> values; the sweep is their union


class GridSweeper(basic_sweeper.BasicSweeper):
    """Hydra's basic sweeper for a union of grids; without `grids` it is the basic one."""

    def __init__(self, max_batch_size: int | None, params: dict[str, str], grids: dict[str, dict[str, str]]) -> None:
        super().__init__(max_batch_size, params)
        self.grids = grids

    def _parse_config(self) -> list[str]:
        return []  # `split_arguments` adds them, grid by grid

    def split_arguments(  # type: ignore[override]  # a static method there, but called on the instance
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """All jobs of all grids, each job once, in batches."""
        from mnist1d.compose import Composer
        from mnist1d.grids import union

        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        composer = loader if isinstance(loader, Composer) else Composer(loader.get_search_path())
        parser = OverridesParser.create(config_loader=composer)
        grids = union(self.params, self.grids, overrides, lambda text: parser.parse_override(text), composer.is_choice)
        jobs: dict[frozenset[str], list[str]] = {}
        for grid in grids:
            for job in super().split_arguments(grid, None)[0]:
                jobs.setdefault(frozenset(job), job)
        return list(self.split_overrides_to_chunks(list(jobs.values()), max_batch_size))


@dataclass
class TPEConf:
    """Tree-structured Parzen estimator: proposes more of what was good; Optuna's default."""

    _target_: str = "optuna.samplers.TPESampler"
    seed: int = 0  # of all that it draws
    n_startup_trials: int = 10  # candidates drawn at random before it learns from them
    n_ei_candidates: int = 24  # draws of which it proposes the most promising


@dataclass
class RandomConf:
    """Random search: what the others must beat."""

    _target_: str = "optuna.samplers.RandomSampler"
    seed: int = 0  # of all that it draws


@dataclass
class OptunaSweeperConf:
    """What is searched, for how long, and how candidates are compared; names as in hydra-optuna-sweeper."""

    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])
    _target_: str = "hydra_plugins.mnist1d_stack.OptunaSweeper"
    _recursive_: bool = False  # a sampler is made anew for every candidate
    sampler: Any = MISSING  # who proposes candidates: the group hydra/sweeper/sampler
    params: dict[str, str] = field(default_factory=dict)  # key -> interval(a,b), tag(log,interval(a,b)), range, choice
    n_trials: int = 40  # candidates
    objective: str = "val/acc_final"  # what they are compared by: a metric on validation data, mean over their seeds
    direction: str = "maximize"  # or minimize
    seeds: int = 3  # runs of each candidate: seeds 0, 1, ...
    fresh_seeds: int = 20  # runs of the best candidate and of the defaults at the end, with seeds of their own; 0: none
    batch: int | None = None  # candidates trained together; null: as many as make a good stack
    study_name: str | None = None  # under which the same command goes on; null: made of what is asked
    storage: str | None = None  # URL of Optuna's database; null: optuna.db beside a local tracking store


class OptunaSweeper(Sweeper):
    """Searches hyper-parameters with Optuna; the candidates of a batch go to the launcher together."""

    def __init__(self, **settings: Any) -> None:
        pass  # `mnist1d.tune` finds them in the config

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra with the command line; returns the best candidate's values and objective."""
        from mnist1d.tune import Tuning

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        return Tuning(self.hydra_context, self.config, self.launcher, arguments)()


for _name, _sampler in (("tpe", TPEConf), ("random", RandomConf)):
    ConfigStore.instance().store(group="hydra/sweeper/sampler", name=_name, node=_sampler, provider="mnist1d")
ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaSweeperConf, provider="mnist1d")
ConfigStore.instance().store(group="hydra/sweeper", name="grids", node=GridSweeperConf, provider="mnist1d")
ConfigStore.instance().store(group="hydra/launcher", name="stack", node=StackLauncherConf, provider="mnist1d")
