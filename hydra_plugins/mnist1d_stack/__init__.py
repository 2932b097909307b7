"""Hydra's door to the stacking launcher, `hydra/launcher=stack`; the work is done in `mnist1d.launcher`.

Hydra imports every plugin when any Hydra program starts, and may import this file twice: keep it light.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class StackLauncherConf:
    """The launcher has no settings of its own: stacks are cut by `trainer.memory` and `trainer.stack`."""

    _target_: str = "hydra_plugins.mnist1d_stack.StackLauncher"


class StackLauncher(Launcher):
    """Gives all jobs of a sweep to the task function at once."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the sweep starts."""
        from mnist1d.launcher import Launch

        self._launch = Launch(hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by Hydra's sweeper with one list of overrides per job."""
        return self._launch(job_overrides, initial_job_idx)


ConfigStore.instance().store(group="hydra/launcher", name="stack", node=StackLauncherConf, provider="mnist1d")
