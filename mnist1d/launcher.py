"""The stacking launcher: all jobs of a sweep go to the task function in one call.

Each job is composed as Hydra composes it, with its own number, output folder and .hydra/*.yaml. What it
costs besides training is a few milliseconds per job. All share one process: `hydra.job.chdir` has no effect.

The task function of `@hydra.main` gets
- a `DictConfig` when Hydra runs it for one config (no -m, or `hydra/launcher=basic`), with `HydraConfig` set;
- a `list[DictConfig]` from this launcher, each resolved, validated and with `hydra.job.num`, `hydra.overrides.task`
  and `hydra.runtime.output_dir` of its own, while `HydraConfig` describes the sweep. It returns a list with one
  float per config, which is what Hydra's sweepers want.

Every job is reported to them as completed: a run that failed, which the task itself tells the user, is worth nan.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import OmegaConfDumper

from mnist1d.compose import Composer, as_typed, current_job, plain
from mnist1d.config import ConfigError, refuse, validate


class Launch:
    """Callable with the work of `hydra_plugins.mnist1d_stack.StackLauncher`."""

    def __init__(self, context: HydraContext, task: TaskFunction, config: DictConfig):
        self.context, self.task, self.config = context, task, config
        # The sweeper composes every job once more, to validate it: let it do that cheaply as well.
        self.composer = Composer(context.config_loader.get_search_path())
        context.config_loader = self.composer

    def __call__(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Compose and validate all jobs, then call the task once; a fault in any config exits with status 2.

        Args:
            job_overrides: one list of `key=value` per job.
            initial_job_idx: number of the first job; sweepers that launch in batches count on.

        Returns:
            One `JobReturn` per job, in order. An exception of the task itself passes through.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        numbered = [(initial_job_idx + place, list(own)) for place, own in enumerate(job_overrides)]
        values = self._validated(numbered)
        returns = [self._start(*job, own) for job, own in zip(numbered, values, strict=True)]
        configs = [result.cfg for result in returns]
        for result, value in zip(returns, self._call(configs), strict=True):
            result.status, result.return_value = JobStatus.COMPLETED, value
            if result.hydra_cfg is not None:
                self.context.callbacks.on_job_end(config=result.hydra_cfg, job_return=result)
        return returns

    def _validated(self, numbered: list[tuple[int, list[str]]]) -> list[dict[str, Any]]:
        """Plain, resolved values of all jobs, once all of them have proved sound."""
        all_values, faults = [], []
        for num, overrides in numbered:
            values = self.composer.quick_values(self.config, overrides)
            if values is None:
                cfg = self._compose(num, overrides)
                with current_job(cfg):
                    values = plain(cfg, resolve=True)
            try:
                validate(values, self.composer.base_of(self.config, overrides).raw.get("model"))
            except ConfigError as error:
                faults += error.faults
            all_values.append(values)
        if faults:
            refuse(faults)
        return all_values

    def _compose(self, num: int, overrides: list[str]) -> DictConfig:
        """The job's config, hydra node included, with everything in it that is set when the job starts."""
        cfg = self.composer.load_sweep_config(self.config, overrides)
        with read_write(cfg.hydra), open_dict(cfg.hydra), current_job(cfg):
            cfg.hydra.job.id, cfg.hydra.job.num = str(num), num
            folder = Path(str(cfg.hydra.sweep.dir)) / str(cfg.hydra.sweep.subdir)
            cfg.hydra.runtime.output_dir = _absolute(folder)
        return cfg

    def _start(self, num: int, overrides: list[str], values: dict[str, Any]) -> JobReturn:
        """Do what Hydra does before a job: make its output folder with .hydra/*.yaml, and tell callbacks."""
        cfg = self._compose(num, overrides)
        output_dir = Path(cfg.hydra.runtime.output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        if cfg.hydra.output_subdir is not None:
            _save(cfg, output_dir / cfg.hydra.output_subdir)
        with current_job(cfg):
            task_cfg = _with_job(self.composer.base_of(self.config, overrides).config(values), cfg.hydra)
        result = JobReturn(overrides, task_cfg, working_dir=str(Path.cwd()), task_name=cfg.hydra.job.name)
        if self.context.callbacks.callbacks:  # 0.1 MB each: kept for those who look at it
            result.hydra_cfg = cfg
            with current_job(cfg):
                self.context.callbacks.on_job_start(config=cfg, task_function=self.task)
        return result

    def _call(self, configs: list[DictConfig | None]) -> Sequence[Any]:
        """The task's values for all jobs; meanwhile `HydraConfig` describes the sweep as a whole."""
        with read_write(self.config.hydra.runtime), open_dict(self.config.hydra.runtime):
            self.config.hydra.runtime.output_dir = _absolute(str(self.config.hydra.sweep.dir))
        with current_job(self.config), env_override(self.config.hydra.job.env_set):
            configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
            values: Sequence[Any] = self.task(configs)
        return values


def _absolute(folder: Path | str) -> str:
    return os.path.abspath(folder)  # noqa: PTH100  (as Hydra: symbolic links stay as they are)


def _with_job(task_cfg: DictConfig, hydra: Any) -> DictConfig:
    """Add the part of `hydra` that belongs to one job, under the names it has in `HydraConfig`."""
    task_cfg.hydra = {
        "job": {"num": hydra.job.num},
        "overrides": {"task": list(hydra.overrides.task)},
        "runtime": {"output_dir": hydra.runtime.output_dir},
    }
    OmegaConf.set_struct(task_cfg, True)
    return task_cfg


def _save(cfg: DictConfig, folder: Path) -> None:
    """Write the three files that Hydra writes for a job."""
    folder.mkdir(exist_ok=True)
    hydra = OmegaConf.to_container(cfg.hydra, resolve=False, enum_to_str=True)
    (folder / "config.yaml").write_text(_yaml(plain(cfg, resolve=False)), encoding="utf-8")
    (folder / "hydra.yaml").write_text(_yaml({"hydra": hydra}), encoding="utf-8")
    (folder / "overrides.yaml").write_text(_yaml(as_typed(cfg.hydra.overrides.task)), encoding="utf-8")


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]
    """OmegaConf's YAML, written by libyaml where there is one: five times faster."""


_Dumper.add_representer(str, OmegaConfDumper.str_representer)


def _yaml(values: Any) -> str:
    text: str = yaml.dump(values, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=_Dumper)
    return text
