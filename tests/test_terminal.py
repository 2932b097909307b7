"""What a sweep prints, as text."""

import io
import math
import time

import pytest
from rich.console import Console

from mnist1d import terminal
from mnist1d.analysis.intervals import Interval
from mnist1d.spelling import duration, size
from mnist1d.summary import Row
from mnist1d.terminal import Terminal


class Screen:
    """A console whose output is read back as text."""

    def __init__(self, width: int = 80, *, is_terminal: bool = False) -> None:
        self.file = io.StringIO()
        self.terminal = Terminal(
            Console(file=self.file, width=width, force_terminal=is_terminal, color_system=None, highlight=False)
        )

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.file.getvalue().splitlines() if line.strip()]


@pytest.fixture
def screen() -> Screen:
    return Screen()


def row(accuracy: float, *, n: int = 3, failed: int = 0, **setting: object) -> Row:
    half = 0.012 if n > 1 else math.nan
    interval = Interval(accuracy, accuracy - half, accuracy + half, n)
    metrics = {"train/loss": interval, "test/acc_final": interval, "test/acc_best": interval}
    return Row({f"model.{key}": value for key, value in setting.items()}, n, failed, metrics if n else {})


def test_the_plan_counts_runs_settings_stacks_and_steps(screen: Screen) -> None:
    screen.terminal.plan(runs=80, settings=4, stacks=1, steps=480_080, where="sqlite:///mlruns/mlflow.db", seconds=83)
    assert screen.lines() == [
        "80 runs · 4 settings · 1 stack · 480.1k run-steps · training about 1 min 23 s",
        "recorded in sqlite:///mlruns/mlflow.db",
    ]


@pytest.mark.parametrize("seconds", [None, 0.0, 0.49])
def test_a_plan_says_no_time_that_is_unknown_or_over_at_once(screen: Screen, seconds: float | None) -> None:
    screen.terminal.plan(runs=1, settings=1, stacks=1, steps=6001, where="http://lab:5000", seconds=seconds)
    assert screen.lines() == ["1 run · 1 setting · 1 stack · 6.0k run-steps", "recorded in http://lab:5000"]


def test_a_plan_without_anything_to_train_says_no_stacks(screen: Screen) -> None:
    screen.terminal.plan(runs=4, settings=2, stacks=0, steps=0, where="http://lab:5000", seconds=0.0)
    assert screen.lines()[0] == "4 runs · 2 settings"


def test_recorded_runs_are_counted_in_one_line_which_names_other_code(screen: Screen) -> None:
    screen.terminal.recorded(0, 20)
    screen.terminal.recorded(14, 20)
    screen.terminal.recorded(1, 1, ["abc"])
    screen.terminal.recorded(1_400, 2_000, ["abc", "def-dirty", "abc"])
    assert screen.lines() == [
        "14 of 20 runs are recorded already; force=true trains them again",
        "1 of 1 run is recorded already; force=true trains them again (1 comes from other code or versions: abc)",
        "1,400 of 2,000 runs are recorded already; force=true trains them again "
        "(3 come from other code or versions: abc, def-dirty)",
    ]


def test_orphans_are_counted(screen: Screen) -> None:
    for count in (0, 1, 2):
        screen.terminal.orphans(count)
    assert screen.lines() == [
        "1 run of a process that is gone is marked FAILED",
        "2 runs of a process that is gone are marked FAILED",
    ]


def test_columns_are_cut_to_the_first_thirty(screen: Screen) -> None:
    screen.terminal.columns([], {"runs": []}, "settings")
    screen.terminal.columns([{"model.hidden": i} for i in range(1, 33)], {"runs": list(range(101, 133))}, "settings")
    lines = screen.lines()
    assert lines[2].split() == ["1", "101"]
    assert lines[-2].split() == ["30", "130"]
    assert lines[-1] == "… and 2 more settings"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "1 kB"),
        (41_000, "41 kB"),
        (1_240_000, "1.2 MB"),
        (53e6, "53 MB"),
        (76.4e9, "76 GB"),
        (9.6e14, "960 TB"),
    ],
)
def test_sizes_are_written_for_people(count: float, text: str) -> None:
    assert size(count) == text


def test_the_table_shows_percent_with_half_the_interval_n_and_failed(screen: Screen) -> None:
    screen.terminal.table([row(0.651, hidden=50), row(0.32, n=2, failed=1, hidden=10), row(0, n=0, hidden=1)])
    head, _rule, first, second, third, note = screen.lines()
    assert head.split() == ["hidden", "final", "best", "n", "failed"]
    assert first.split() == ["50", "65.1", "±", "1.2", "65.1", "±", "1.2", "3", "0"]
    assert second.split() == ["10", "32.0", "±", "1.2", "32.0", "±", "1.2", "2", "1"]
    assert third.split() == ["1", "–", "–", "0", "0"]
    assert note == "Accuracy on test data in percent; mean ± half the 95% interval over n runs."


def test_the_table_of_a_single_run_has_no_interval(screen: Screen) -> None:
    screen.terminal.table([row(0.651, n=1)])
    *_, numbers, note = screen.lines()
    assert numbers.split() == ["65.1", "65.1", "1", "0"]
    assert note == "Accuracy on test data in percent; one run each, so no interval."
    assert "±" not in screen.file.getvalue()


def test_the_table_of_runs_that_all_failed_says_that_none_finished(screen: Screen) -> None:
    screen.terminal.table([row(0, n=0, failed=2, hidden=10), row(0, n=0, failed=1, hidden=50)])
    *_, first, second, note = screen.lines()
    assert (first.split(), second.split()) == (["10", "0", "2"], ["50", "0", "1"])
    assert note == "No run finished, so there is no accuracy to show."


def test_the_table_cuts_a_thousand_settings_to_the_best_thirty(screen: Screen) -> None:
    screen.terminal.table([row(i / 1000, hidden=i) for i in range(1000)])
    lines = screen.lines()
    assert len(lines) == 2 + 30 + 2
    assert lines[2].split()[0] == "999"
    assert lines[31].split()[0] == "970"
    assert lines[-2] == "The best 30 of 1000 settings; the parent run's summary.csv has all."


def test_a_narrow_terminal_gets_sentences_with_every_number_whole() -> None:
    screen = Screen(width=30)
    screen.terminal.table([row(0.651, hidden=50, width=2)])
    assert screen.lines()[0] == "hidden=50 width=2: final 65.1 ± 1.2, best 65.1 ± 1.2, n 3, failed 0"


def test_a_setting_without_one_of_the_keys_shows_a_dash(screen: Screen) -> None:
    screen.terminal.table([row(0.6, name="mlp", hidden=50), row(0.9, name="cnn")])
    head, _, mlp, cnn, _ = screen.lines()
    assert head.split()[:2] == ["model", "hidden"]
    assert mlp.split()[:2] == ["mlp", "50"]
    assert cnn.split()[:2] == ["cnn", "–"]


def test_brackets_in_values_are_text_and_not_markup(screen: Screen) -> None:
    screen.terminal.table([row(0.6, kernels=[5, 3, 3], label="[red]")])
    screen.terminal.failures([("cnn kernels=[5,3,3]", "[bold] is no number")])
    assert "[5,3,3]" in screen.lines()[2]
    assert "[red]" in screen.lines()[2]
    assert screen.lines()[-1] == "  cnn kernels=[5,3,3]: [bold] is no number"


def test_failures_are_listed_with_reasons_up_to_twenty(screen: Screen) -> None:
    screen.terminal.failures([(f"mlp seed={i}", "the loss is NaN at step 7") for i in range(22)])
    lines = screen.lines()
    assert lines[0] == "22 runs failed:"
    assert lines[1] == "  mlp seed=0: the loss is NaN at step 7"
    assert lines[-1] == "  … and 2 more, each with its reason in the UI"
    assert len(lines) == 22


def test_runs_that_may_diverge_are_counted_apart(screen: Screen) -> None:
    screen.terminal.diverged(3)
    assert screen.lines() == [
        "3 runs diverged, as expected here: each is FAILED with its step, and a result (trainer.may_diverge)"
    ]


def test_nothing_is_said_where_nothing_failed_or_ran(screen: Screen) -> None:
    screen.terminal.failures([])
    screen.terminal.diverged(0)
    screen.terminal.table([])
    assert screen.lines() == []


def test_commands_are_never_broken_into_lines() -> None:
    screen = Screen(width=30)
    command = "python train.py -m model=mlp model.hidden=10,20,50,100 data.label_noise=0.15"
    uri = "sqlite:///mlruns/mlflow.db"
    screen.terminal.where(uri=uri, experiment="mnist1d", sweep="mlp", commands=[command, "make ui"])
    assert screen.lines() == [
        "Look at it:  make ui   (choose Model training, experiment mnist1d, run mlp)",
        f"Go on with:  {command}",
        "             make ui",
    ]


def test_passwords_are_not_shown(screen: Screen) -> None:
    for uri in ("http://me:secret@lab:5000", "postgresql://me:secret@lab/runs"):
        screen.terminal.plan(runs=1, settings=1, stacks=0, steps=0, where=uri)
        screen.terminal.where(uri=uri, experiment="mnist1d", sweep="mlp")
    assert sum("me:***@lab" in line for line in screen.lines()) == 4
    assert "secret" not in screen.file.getvalue()


def test_what_is_kept_on_disk_and_what_was_is_said_with_the_command_that_records_it(screen: Screen) -> None:
    screen.terminal.kept(0, "x")
    screen.terminal.caught_up(0)
    assert screen.lines() == []
    screen.terminal.kept(2, "python train.py sync=true")
    screen.terminal.caught_up(1, ["tracking store x: line 2 of y is not what was written"])
    assert screen.lines() == [
        "2 runs are kept on disk and not recorded yet, for the store is away.",
        "Once it is back, the next start records them, or",
        "             python train.py sync=true",
        "1 run that was kept while the store was away is recorded now",
        "tracking store x: line 2 of y is not what was written",
    ]


def test_a_server_is_its_own_ui(screen: Screen) -> None:
    screen.terminal.where(uri="http://lab:5000", experiment="mnist1d", sweep="mlp")
    assert screen.lines() == ["Look at it:  http://lab:5000   (choose Model training, experiment mnist1d, run mlp)"]


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("sqlite:////data/m.db", "MLFLOW_TRACKING_URI=sqlite:////data/m.db make ui"),
        ("sqlite:///my runs.db", "MLFLOW_TRACKING_URI='sqlite:///my runs.db' make ui"),
    ],
)
def test_a_store_of_ones_own_is_named_to_make_ui(screen: Screen, uri: str, command: str) -> None:
    screen.terminal.where(uri=uri, experiment="mnist1d", sweep="mlp")
    assert screen.lines()[0].startswith(f"Look at it:  {command}   (")


def test_progress_without_a_terminal_is_a_first_and_a_last_line(screen: Screen) -> None:
    with screen.terminal.progress(2, 4000) as progress:
        for _ in range(40):
            progress.advance(100)
            progress.best(0.651)
            progress.best(math.nan)
            progress.best(0.2)
        progress.finished(2)
    first, last = screen.lines()
    assert first == "0/2 runs"
    assert last.startswith("2/2 runs · best 65.1% · ")
    assert "run-steps/s" in last
    assert "left" not in last


def test_plain_lines_keep_their_distance(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "PLAIN_SECONDS", 0.05)
    with screen.terminal.progress(1, 10**12) as progress:
        until = time.monotonic() + 0.18
        while time.monotonic() < until:
            progress.advance(1)
    assert 3 <= len(screen.lines()) <= 5
    assert screen.lines()[1].endswith(" left")


def test_an_interrupted_sweep_still_says_how_far_it_came(screen: Screen) -> None:
    def sweep() -> None:
        with screen.terminal.progress(4, 4000) as progress:
            progress.advance(1000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep()
    assert screen.lines()[-1].startswith("0/4 runs · ")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_runs_that_end_after_the_last_line_add_none(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    monkeypatch.setattr(terminal, "PLAIN_SECONDS", 0.0)
    screen = Screen(is_terminal=is_terminal)
    with screen.terminal.progress(4, 4000) as progress:
        progress.advance(1000)
    shown = screen.file.getvalue()
    progress.finished(4)
    assert screen.file.getvalue() == shown
    assert progress.runs == 4


def test_progress_on_a_terminal_is_one_bar() -> None:
    screen = Screen(is_terminal=True)
    with screen.terminal.progress(2, 4000) as progress:
        progress.best(0.5)
        progress.advance(4000)
        progress.finished(2)
    shown = screen.file.getvalue()
    assert shown.count("\n") == 1
    assert "2/2 runs · best 50.0%" in shown
    assert "0:00:00" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.83, "0.8 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (83, "1 min 23 s"),
        (3600, "1 h"),
        (7841, "2 h 11 min"),
        (1e9, "32 years"),
    ],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
