"""Speed, proved side by side: `make bench`."""

from pathlib import Path

import hydra

from mnist1d.config import Run, parse

CONF = Path(__file__).parents[1] / "conf"


def make_run(*overrides: str) -> Run:
    """The run that this command line asks for."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(hydra.compose("config", overrides=list(overrides)))
