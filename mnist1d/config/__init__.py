"""The typed configuration of a run, and the check of a command line before anything is imported.

`check(sys.argv[1:])` reports every fault of a command line at once; `parse(cfg)` turns a composed
config into a `Run`, `parse_or_refuse(configs)` many, or ends the program as `check` does.
The keys live in conf/, their types and limits in `schema`.
"""

from mnist1d.config.command import check, no_folders_for_a_plan
from mnist1d.config.faults import ConfigError, Fault, refuse
from mnist1d.config.schema import (
    SGD,
    Adam,
    Data,
    Images,
    Model,
    Optimizer,
    RMSprop,
    Run,
    Signals,
    Tracking,
    Trainer,
    make_data,
)
from mnist1d.config.validate import parse, parse_or_refuse, validate

__all__ = [
    "SGD",
    "Adam",
    "ConfigError",
    "Data",
    "Fault",
    "Images",
    "Model",
    "Optimizer",
    "RMSprop",
    "Run",
    "Signals",
    "Tracking",
    "Trainer",
    "check",
    "make_data",
    "no_folders_for_a_plan",
    "parse",
    "parse_or_refuse",
    "refuse",
    "validate",
]
