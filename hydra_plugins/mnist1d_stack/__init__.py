"""Hydra's door to the stacking launcher (`hydra/launcher=stack`) and to the sweeper of grids (`hydra/sweeper=grids`).

The work is done in `mnist1d.launcher` and `mnist1d.grids`.

Hydra imports every plugin when any Hydra program starts, and may import this file twice: keep it light.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


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


ConfigStore.instance().store(group="hydra/sweeper", name="grids", node=GridSweeperConf, provider="mnist1d")
ConfigStore.instance().store(group="hydra/launcher", name="stack", node=StackLauncherConf, provider="mnist1d")
