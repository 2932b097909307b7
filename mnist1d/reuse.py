"""Activation functions that earlier runs have learned: found in the store, checked, and loaded where nets are built."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mnist1d.config import ConfigError, Fault, Run, Tracking, refuse
from mnist1d.models.activation import Activation
from mnist1d.models.learned import values_and_slopes
from mnist1d.models.make import make_model
from mnist1d.tabulated import Jet, as_activation, tabulate

if TYPE_CHECKING:  # MLflow takes a second to import, and most runs ask for no learned function
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

KEY = "model.activation"
TASK = "metalearn_activation"
TRIED = "fresh/acc_mean"
"""The metric by which learned functions are compared: mean test accuracy in trials."""
BEST = "best"
LEARN = f"python train.py -m experiment={TASK}"
WANTED = f"learned:{BEST}, or the id of a finished run of task={TASK} with task.scale above 0"


def make_member(run: Run) -> nn.Module:
    """One member of a run's architecture, with PyTorch's global generator and with its learned activation, if any.

    Raises TypeError as `make_model`, TrackingError where the function can no longer be loaded.
    """
    learned = run.model.learned
    return make_model(run.model, {} if learned is None else {"activation": load_learned(learned, run.tracking.uri)})


def load_learned(run_id: str, uri: str) -> Activation:
    """The function that a finished run has learned, without noise, as a table; differentiable once.

    Args:
        run_id: of a run of task=metalearn_activation.
        uri: of the store that has it.

    Raises TrackingError for a run that has no such function.
    """
    _function(run_id, uri)

    def on(z: Tensor) -> Activation:
        return as_activation(_table(run_id, uri, z.device, z.dtype))

    return Activation(lambda z: on(z).value(z), lambda z: on(z).derivative(z))


@lru_cache
def _function(run_id: str, uri: str) -> Jet:
    from mnist1d.tracking import TrackingError, load_weights

    saved = load_weights(run_id, uri)
    params = {name: values[None] for name, values in saved["state_dict"].items()}
    try:
        scale = torch.tensor([saved["config"]["task.scale"]])
        function = values_and_slopes(params, [saved["config"][KEY]], scale)
        function(torch.zeros(1, dtype=torch.float64))
    except KeyError as error:
        raise TrackingError(f"the weights of run {run_id} are of no learned function: {error} is missing") from error
    return function


@lru_cache
def _table(run_id: str, uri: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tabulate(_function(run_id, uri), dtype=dtype).to(device)


# -- before anything is trained --------------------------------------------------------------------------


def settle_or_refuse(runs: Sequence[Run]) -> list[Run]:
    """`settle`, or its faults go to stderr and the program ends with status 2."""
    try:
        return settle(runs)
    except ConfigError as error:
        refuse(error.faults)


def settle(runs: Sequence[Run]) -> list[Run]:
    """The runs with `learned:best` replaced by the run that it stands for; every learned function has been loaded once.

    Raises ConfigError with a fault for every function that cannot be had.
    """
    asked = dict.fromkeys((run.tracking, run.model.learned) for run in runs if run.model.learned is not None)
    found: dict[tuple[Tracking, str | None], str] = {}
    faults = []
    for place, which in asked:
        assert which is not None
        try:
            found[place, which] = _find(place, which)
        except _Unusable as problem:
            faults.append(Fault(KEY, f"learned:{which}", *problem.args))
    if faults:
        raise ConfigError(faults)
    return [_with_function(run, found.get((run.tracking, run.model.learned))) for run in runs]


class _Unusable(Exception):
    """What is wrong with a learned function, and what is allowed instead."""


def _find(place: Tracking, which: str) -> str:
    """Id of the run that has learned a function, which can be loaded."""
    from mnist1d.tracking import TrackingError, reading

    try:
        with reading(place.uri) as client:
            run = _best(client, place) if which == BEST else _one(client, which, place)
        load_learned(run.info.run_id, place.uri)
    except TrackingError as error:
        what = ": ".join(line.strip(" .") for line in str(error).splitlines()[:2])  # the third is advice
        raise _Unusable(what, f"a store that has learned functions: {LEARN}") from error
    return str(run.info.run_id)


def _best(client: MlflowClient, place: Tracking) -> StoredRun:
    asked = f"params.`task.name` = '{TASK}' and attributes.status = 'FINISHED'"
    folder = client.get_experiment_by_name(place.experiment)
    runs = client.search_runs([folder.experiment_id], asked, order_by=[f"metrics.`{TRIED}` DESC"]) if folder else []
    tried = [run for run in runs if _scale(run) > 0 and TRIED in run.data.metrics]
    if not tried:
        text = f"no function has been learned in {place.uri} (tracking.experiment={place.experiment})"
        raise _Unusable(text, f"once there is one: {LEARN}")
    return max(tried, key=lambda run: run.data.metrics[TRIED])


def _one(client: MlflowClient, run_id: str, place: Tracking) -> StoredRun:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise _Unusable(f"no such run in {place.uri}", WANTED) from error
    if problem := _problem(run):
        raise _Unusable(problem, WANTED)
    return run


def _problem(run: StoredRun) -> str:
    if run.info.lifecycle_stage != "active":
        return "that run was deleted"
    if (task := run.data.params.get("task.name")) != TASK:
        return f"that run has task={task}" if task else "that run is a sweep"
    if _scale(run) == 0:
        return "that run has learned nothing: its task.scale is 0"
    return "" if run.info.status == "FINISHED" else f"that run is {run.info.status}"


def _scale(run: StoredRun) -> float:
    return float(run.data.params["task.scale"])


def _with_function(run: Run, run_id: str | None) -> Run:
    changed: dict[str, Any] = {"activation": f"learned:{run_id}"}
    return run.model_copy(update={"model": run.model.model_copy(update=changed)}) if run_id else run
