"""Settings, names and intervals from flattened configs."""

import csv
import io
import json
import math

import pytest

from mnist1d import summary
from mnist1d.analysis.intervals import t_interval
from mnist1d.spelling import spelled


def flat(seed: int = 0, *, name: str = "mlp", **changed: object) -> dict[str, object]:
    """A small config; `model__hidden=50` sets model.hidden."""
    base: dict[str, object] = {"seed": seed, "experiment": None, "model.name": name}
    base |= {"model._target_": f"mnist1d.models.{name.upper()}"}
    base |= {"model.hidden": 100} if name == "mlp" else {"model.channels": 25}
    base |= {"data.name": "mnist1d", "data.seed": 42, "optimizer.name": "adam", "optimizer.lr": 0.01}
    return base | {key.replace("__", "."): value for key, value in changed.items()}


def names(flats: list[dict[str, object]]) -> list[str]:
    return summary.run_names(flats, summary.swept_keys(flats))


def test_a_name_is_the_model_then_what_was_swept_then_the_seed() -> None:
    flats = [flat(seed, model__hidden=hidden) for hidden in (10, 50) for seed in (0, 3)]
    assert names(flats) == [
        "mlp hidden=10 seed=0",
        "mlp hidden=10 seed=3",
        "mlp hidden=50 seed=0",
        "mlp hidden=50 seed=3",
    ]


def test_the_data_seed_is_not_called_the_seed() -> None:
    assert names([flat(data__seed=1), flat(data__seed=2)]) == ["mlp data.seed=1", "mlp data.seed=2"]


def test_a_swept_group_goes_by_its_own_name() -> None:
    flats = [flat(optimizer__name="adam"), flat(optimizer__name="sgd")]
    assert names(flats) == ["mlp optimizer=adam", "mlp optimizer=sgd"]


def test_keys_that_only_differ_because_the_model_does_are_not_swept() -> None:
    flats = [flat(), flat(name="cnn")]
    assert summary.swept_keys(flats) == ["model.name"]
    assert names(flats) == ["mlp", "cnn"]


def test_a_task_goes_by_its_name_and_not_by_its_class() -> None:
    flats = [flat(**{"task.name": name, "task._target_": f"mnist1d.{name}"}) for name in ("classification", "recipe")]
    assert names(flats) == ["mlp task=classification", "mlp task=recipe"]


def test_keys_that_only_differ_because_the_data_set_does_are_not_swept() -> None:
    digits = {"data__name": "digits", "data__row_length": 8, "data__final_seq_length": 64, "model__input_size": 64}
    signals = {"data__final_seq_length": 40, "model__input_size": 40}
    assert names([flat(**signals), flat(**digits)]) == ["mlp data=mnist1d", "mlp data=digits"]
    longer = [flat(**signals), flat(**signals | {"data__final_seq_length": 50, "model__input_size": 50})]
    assert names(longer) == ["mlp final_seq_length=40", "mlp final_seq_length=50"]


def test_a_key_of_one_model_is_swept_when_that_model_has_several_values() -> None:
    flats = [flat(model__hidden=10), flat(model__hidden=50), flat(name="cnn")]
    assert names(flats) == ["mlp hidden=10", "mlp hidden=50", "cnn"]


def test_a_single_run_goes_by_its_model() -> None:
    assert names([flat(seed=0)]) == ["mlp"]


def test_false_true_and_one_are_different_values() -> None:
    flats = [flat(data__shuffle=False), flat(data__shuffle=True)]
    assert names(flats) == ["mlp shuffle=false", "mlp shuffle=true"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (1e-8, "1e-08"),
        ("adam", "adam"),
        ([5, 3, 3], "[5,3,3]"),
        ((0.9, 0.999), "[0.9,0.999]"),
        ({"smoke": {"a": [1]}}, "{smoke:{a:[1]}}"),
    ],
)
def test_values_are_written_as_on_the_command_line(value: object, written: str) -> None:
    assert spelled(value) == written


def test_a_setting_is_a_config_without_its_seeds() -> None:
    flats = [flat(seed, model__hidden=hidden, data__seed=seed) for seed in (0, 1) for hidden in (10, 50)]
    assert summary.settings(flats) == [[0, 2], [1, 3]]


def test_keys_in_another_order_are_the_same_setting() -> None:
    first = flat(0)
    assert summary.settings([first, dict(reversed(first.items())) | {"seed": 1}]) == [[0, 1]]


def test_a_row_has_mean_interval_n_and_failed() -> None:
    flats = [flat(seed, model__hidden=hidden) for hidden in (10, 50) for seed in range(3)]
    accuracies = [0.0, 0.1, 0.2, 0.3, None, 0.5]
    results = [None if accuracy is None else {"test/acc_final": accuracy} for accuracy in accuracies]
    first, second = summary.summarise(flats, results)
    assert first.setting == {"model.hidden": 10}
    assert (first.n, first.failed, second.n, second.failed) == (3, 0, 2, 1)
    assert first.metrics["test/acc_final"] == t_interval([0.0, 0.1, 0.2])
    assert second.metrics["test/acc_final"] == t_interval([0.3, 0.5])


def test_one_run_has_a_mean_and_no_interval() -> None:
    (row,) = summary.summarise([flat()], [{"test/acc_final": 0.6}])
    assert row.setting == {}
    assert row.metrics["test/acc_final"].mean == 0.6
    assert math.isnan(row.metrics["test/acc_final"].low)


def test_a_setting_whose_runs_all_failed_is_still_a_row() -> None:
    (row,) = summary.summarise([flat(0), flat(1)], [None, None])
    assert (row.n, row.failed, row.metrics) == (0, 2, {})


def test_a_value_that_is_not_a_number_is_left_out_and_seen_in_n() -> None:
    (row,) = summary.summarise([flat(0), flat(1)], [{"test/loss": math.nan}, {"test/loss": 2.0}])
    assert row.n == 2
    assert row.metrics["test/loss"].n == 1
    assert row.metrics["test/loss"].mean == 2.0


def test_missing_results_are_refused() -> None:
    with pytest.raises(ValueError, match="2 configs but 1 results"):
        summary.summarise([flat(0), flat(1)], [None])


def two_models() -> list[summary.Row]:
    flats = [flat(0, model__hidden=10), flat(1, model__hidden=10), flat(0, name="cnn")]
    flats.append(flat(0, model__hidden=50))
    return summary.summarise(flats, [{"test/acc": 0.5}, {"test/acc": 0.6}, {"test/acc": 0.9, "x": 1.0}, None])


def test_csv_and_json_hold_every_number_under_the_same_keys() -> None:
    keys = ["model.name", "model.hidden", "n", "failed"]
    metrics = ["test/acc", "test/acc low", "test/acc high", "test/acc n", "x", "x low", "x high", "x n"]
    table = list(csv.reader(io.StringIO(summary.as_csv(two_models()))))
    assert table[0] == keys + metrics
    assert table[1][:4] == ["mlp", "10", "2", "0"]
    assert float(table[1][4]) == pytest.approx(0.55)
    assert table[2] == ["cnn", "", "1", "0", "0.9", "", "", "1", "1.0", "", "", "1"]
    assert table[3] == ["mlp", "50", "0", "1"] + [""] * 8
    records = json.loads(summary.as_json(two_models()))
    assert [list(record) for record in records] == [table[0]] * 3
    assert records[1]["test/acc low"] is None


def test_the_markdown_table_brackets_the_interval() -> None:
    lines = summary.as_markdown(two_models()).splitlines()
    assert lines[0] == "| model.name | model.hidden | test/acc | x | n | failed |"
    assert lines[2].startswith("| mlp | 10 | 0.5500 [-0.0853, 1.1853] | – | 2 | 0 |")
    assert lines[3] == "| cnn | – | 0.9000 | 1.0000 | 1 | 0 |"
    assert lines[4] == "| mlp | 50 | – | – | 0 | 1 |"


def test_an_empty_sweep_has_empty_tables() -> None:
    assert summary.as_csv([]) == ""
    assert json.loads(summary.as_json([])) == []


def test_parent_metrics_are_named_by_setting() -> None:
    metrics = summary.as_metrics(two_models())
    assert {"settings": 3, "runs": 4, "failed": 1}.items() <= metrics.items()
    assert metrics["mean/test/acc/model mlp hidden 10"] == pytest.approx(0.55)
    assert metrics["low/test/acc/model mlp hidden 10"] < 0.55 < metrics["high/test/acc/model mlp hidden 10"]
    assert metrics["mean/test/acc/model cnn"] == 0.9
    assert "low/test/acc/model cnn" not in metrics


def test_parent_metrics_of_one_setting_go_without_its_name() -> None:
    rows = summary.summarise([flat(0), flat(1)], [{"test/acc": 0.5}, {"test/acc": 0.6}])
    assert set(summary.as_metrics(rows)) >= {"mean/test/acc", "low/test/acc", "high/test/acc"}


def test_parent_metrics_stop_at_the_first_settings() -> None:
    flats = [flat(model__hidden=h) for h in range(1, 201)]
    rows = summary.summarise(flats, [{"a": 1.0}] * 200)
    assert len(summary.as_metrics(rows)) == 3 + 20


def test_a_models_own_default_is_not_swept_but_its_sweep_is():
    mlp, gru = {"model.name": "mlp", "model._target_": "a.MLP"}, {"model.name": "gru", "model._target_": "a.GRU"}
    runs = [{**mlp, "model.hidden": 100}, {**gru, "model.hidden": 6}]
    assert summary.swept_keys(runs) == ["model.name"]
    assert summary.swept_keys([*runs, {**mlp, "model.hidden": 50}]) == ["model.name", "model.hidden"]


@pytest.mark.parametrize("known", [None, True, False, 3, 0.15, 1e-08, (5, 3, 3), "mlp", "mnist1d.models.MLP"])
def test_typed_is_the_inverse_of_text(known: object) -> None:
    assert summary.typed(spelled(known)) == known
