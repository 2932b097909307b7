"""Train MNIST-1D models: one run, or a sweep of many runs as a few batched computations.

    python train.py                                              # one MLP, test accuracy near 0.65
    python train.py -m model=mlp model.hidden=10,20,50,100 data.label_noise=0.15  # four runs, compared
    python train.py -m experiment=classification profile=quick   # an experiment of the paper

Reading order: conf/config.yaml, this file, mnist1d/fit.py (Lightning's `trainer.fit`), mnist1d/classification.py.
"""

import gc
import math
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mnist1d import executors, interrupt
from mnist1d.config import ConfigError, check, no_folders_for_a_plan, parse_or_refuse, refuse

# OpenMP threads wait for each other by spinning. On a busy machine the one waited for may not be running at all, and
# a step takes twenty times as long; after a millisecond or two of spinning a thread had better sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

failures: list[str] = []
"""Names of the runs that failed in this process; the program then ends with exit status 1."""
kept: list[int] = []
"""How many runs of each sweep are not recorded but kept, since the store went away; then with exit status 3."""


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig | list[DictConfig]) -> Any:
    """Train one run (`config` is its config) or, called by the stacking launcher, all runs of a sweep at once.

    Returns what Hydra's sweepers want: the final test accuracy, for a list one per config, nan for a failed run.
    """
    configs = config if isinstance(config, list) else [config]
    runs = parse_or_refuse(configs)  # every fault is known before torch is imported, which takes seconds
    if runs[0].sync:
        from mnist1d.sync import record_or_refuse

        record_or_refuse(runs[0].tracking)
        return [math.nan] * len(runs) if isinstance(config, list) else math.nan

    if not runs[0].plan:
        from mnist1d.data.download import fetch_or_refuse

        fetch_or_refuse(run.data.name for run in runs)
    hydra = HydraConfig.get()
    execute = executors.chosen(hydra.launcher, Path(hydra.runtime.output_dir))
    if not runs[0].plan:
        executors.warm_up_or_refuse(execute, runs)  # worker processes import meanwhile what is imported here

    gc.disable()  # a quarter of the time that torch, Lightning and MLflow take to import is garbage collection
    from mnist1d import cost, hardware
    from mnist1d.analysis.read import StoreError
    from mnist1d.fit import quiet
    from mnist1d.preview import show
    from mnist1d.reuse import settle_or_refuse
    from mnist1d.sweep import Sweep
    from mnist1d.tracking import TrackingError

    gc.enable()
    quiet()
    runs = settle_or_refuse(runs)
    if faults := cost.impossible(runs):
        refuse(faults)
    hardware.allow(execute.cpus)
    try:
        if runs[0].plan:
            show(runs, execute.workers)
            return [math.nan] * len(runs) if isinstance(config, list) else math.nan
        with Sweep(runs, hydra, execute.workers) as sweep:
            execute(sweep.stacks, sweep.take)  # every stack to mnist1d.fit.train, every event of it to the sweep
    except (TrackingError, StoreError, executors.Unavailable) as error:
        sys.exit(f"train.py: {error}")
    except ConfigError as error:  # what can be told only by what the store has already
        refuse(error.faults)
    failures.extend(sweep.failures)
    kept.append(sweep.kept)
    return sweep.objective if isinstance(config, list) else sweep.objective[0]


if __name__ == "__main__":
    interrupt.listen()
    check(sys.argv[1:])  # all faults of the command line together, in under a second
    with no_folders_for_a_plan(sys.argv):
        main()
    sys.exit(1 if failures else 3 if any(kept) else 0)
