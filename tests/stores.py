"""Real MLflow stores of known truth, filled as training fills them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from mnist1d.analysis import classification, read


@dataclass
class Store:
    """One MLflow experiment of a real sqlite store, filled as training fills it."""

    client: MlflowClient
    path: Path
    folder: str

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path}"

    def read(self, *metrics: str) -> read.Runs:
        return read.read_runs(self.uri, metrics=metrics or classification.METRICS, folder=self.folder)

    def argv(self, output: Path, *more: str) -> list[str]:
        """analyze.py's arguments for these runs."""
        where = [f"tracking.uri={self.uri}", f"tracking.experiment={self.folder}", f"output={output}"]
        return ["experiment=classification", *where, *more]

    def add(
        self,
        status: str = "FINISHED",
        *,
        curves: dict[str, dict[int, float]] | None = None,
        finals: dict[str, float] | None = None,
        tags: dict[str, str] | None = None,
        fingerprint: str | None = None,
        **config: Any,
    ) -> str:
        """Log one run; dots in config keys are written as two underscores. Returns its run id."""
        params = {key.replace("__", "."): str(value) for key, value in config.items()}
        print_ = "/".join(f"{key}={value}" for key, value in sorted(params.items()))
        all_tags = {"mnist1d.fingerprint": fingerprint or print_, "mnist1d.sweep": "s1", **(tags or {})}
        client = self.client
        folder = client.get_experiment_by_name(self.folder)
        folder_id = folder.experiment_id if folder else client.create_experiment(self.folder, "file:///unused")
        run_id = client.create_run(folder_id, run_name="a run").info.run_id
        points = [(key, step, value) for key, curve in (curves or {}).items() for step, value in curve.items()]
        points += [(key, 500, value) for key, value in (finals or {}).items()]
        self.client.log_batch(
            run_id,
            [Metric(key, value, 1000, step) for key, step, value in points],
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in all_tags.items() if value],
        )
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return run_id

    def classify(self, model: str, shuffled: bool, seed: int, final: float, **more: Any) -> str:
        """Log a run of the experiment that ends at `final` and was 0.02 better in the middle."""
        validated = more.get("data__val_split", "0.0") != "0.0"
        finals = {"test/acc_final": final, "test/acc_best": final + 0.02}
        finals |= {f"test/acc_class_{digit}": final - 0.01 * digit for digit in range(10)}
        config = {
            "model__name": model,
            "data__shuffle_features": str(shuffled).lower(),
            "data__val_split": "0.0",
            "trainer__max_steps": 501,
            "trainer__eval_every": 250,
            "data__test_samples": "null",
            "optimizer__lr": 0.01,
            "experiment": "classification",
            "profile": "paper",
            "seed": seed,
        }
        return self.add(
            finals=finals | ({"test/acc_selected": final + 0.01} if validated else {}),
            curves={
                "train/acc": {0: 0.1, 250: 0.9, 500: 1.0},
                "test/acc": {0: 0.1, 250: final + 0.02, 500: final},
            },
            **(config | more),
        )


def made(path: Path) -> Store:
    """A new database, without an experiment of ours."""
    return Store(MlflowClient(f"sqlite:///{path}"), path, "")


def part(database: Store, folder: str) -> Store:
    """A new MLflow experiment in the same database, since making one takes seconds."""
    database.client.create_experiment(folder, "file:///unused")
    return Store(database.client, database.path, folder)
