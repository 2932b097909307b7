"""From the store to the report, in layers whose arrows point one way.

    read -> statistics, curves -> intervals -> figures, claims -> one page per experiment -> report

`read` is the only place that touches MLflow; nothing here imports torch, Lightning or training code. This
module is light, so that the command line can be checked before anything heavy is imported.
"""

import os
from collections.abc import Mapping
from pathlib import Path

PROFILES = ("smoke", "quick", "paper")
"""Sizes that every experiment has."""

STORE = "sqlite:///mlruns/mlflow.db"
"""Where runs are unless told otherwise, as in conf/config.yaml and for `make ui`."""

SIGNS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?", "no value": "–"}
"""Verdict -> how it is seen without colour."""

ABLATIONS = {
    "ablation_sparsity": "Ablation: schedules of pruning",
    "ablation_mask": "Ablation: a ticket's pattern and its weights",
    "ablation_transfer": "Ablation: tickets on other data",
    "ablation_capacity": "Ablation: width, depth, time and data in double descent",
    "ablation_noise": "Ablation: label noise and remedies in double descent",
    "ablation_dropout": "Ablation: dropout by width, depth and label noise",
    "ablation_learned_lr": "Ablation: learned learning rates disturbed",
    "ablation_learned_activation": "Ablation: learned activation functions against standard ones",
    "ablation_projector": "Ablation: projection heads and every layer before and behind them",
    "ablation_pooling": "Ablation: kinds and windows of pooling",
    "ablation_contrast": "Ablation: contrastive losses and temperature",
}
"""Ablation -> its heading."""

TITLES = {
    "classification": "Classification",
    "tsne": "t-SNE",
    "lottery": "Lottery tickets",
    "double_descent": "Double descent",
    "metalearn_lr": "Metalearning a learning rate",
    "metalearn_activation": "Metalearning an activation function",
    "activation_transfer": "Transfer of a learned activation function",
    "simclr": "SimCLR",
    "pooling": "Pooling",
    "efficiency": "Efficiency",
    "tune": "Tuning of learning rate and weight decay",
    "leaderboard": "Leaderboard",
    "sample_efficiency": "Sample efficiency",
    **ABLATIONS,
}
"""Experiment -> its heading, in the order of the paper, then the ablations."""

DESCRIBED = tuple(sorted(file.stem for file in Path(__file__).parents[2].glob("conf/page/*.yaml")))
"""Experiments whose pages are described in conf/page/, the reader's own among them."""

OWN = tuple(name for name in DESCRIBED if name not in TITLES)
"""The reader's own."""

PAGES = {name: f"mnist1d.analysis.{name}" for name in TITLES if name not in DESCRIBED}
"""Other experiment -> the module of its page, with METRICS (histories it needs) and page(runs)."""


def store(given: Mapping[str, str]) -> str:
    """The URI of the store that a command line's `given` keys mean."""
    return given.get("tracking.uri") or os.environ.get("MLFLOW_TRACKING_URI") or STORE
