"""Search of hyper-parameters, the work behind hydra/sweeper=optuna: Optuna proposes, a batch of candidates is a stack.

A study lies in Optuna's database, the runs in MLflow; together they let the same command line go on where it was cut
off. Candidate k is drawn by a sampler seeded with k, so that it does not matter in how many sittings a study is made. A
candidate that was asked for and has no result is trained again: those of its runs that are recorded are not.

- Complete: its value is the mean of `hydra.sweeper.objective`, measured on validation data, over its seeds.
- Pruned: some of its runs diverged. A result: the sampler keeps away.
- Failed: some of its runs have no result for another reason. The same command asks for it once more.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from mnist1d import executors
from mnist1d.analysis.intervals import Interval, paired_difference, shown
from mnist1d.compose import Composer, as_typed, parse_override
from mnist1d.config import Run, parse, validate
from mnist1d.plan import DESCRIPTIVE, LABELS, digest, fingerprint
from mnist1d.space import FIRST_FRESH, ends, is_logarithmic, merged, varied, whole_numbers
from mnist1d.spelling import spelled
from mnist1d.terminal import Terminal

DIGITS = 4
"""Significant digits that a drawn number is rounded to: no search resolves more, and names stay readable."""
FEWEST_BATCHES = 4
"""Batches that a study has at least: in one large batch a sampler could learn nothing."""
SQLITE = "sqlite:///"
ASKED = "mnist1d.asked"
"""Attribute of a study: what its candidates have in common."""
SETTLED = (TrialState.COMPLETE, TrialState.PRUNED)
SHOWN = 5
"""Candidates shown at the end."""
TESTED = "test/acc_final"
"""What the best candidate and the defaults are compared by, when all is chosen."""

Finals = Mapping[str, float] | None


@dataclass(frozen=True)
class Candidate:
    """One point of the search: its number in the study, and its values as they are typed."""

    number: int
    values: dict[str, str]

    @property
    def overrides(self) -> list[str]:
        """The values as overrides."""
        return [f"{key}={text}" for key, text in self.values.items()]


class Tuning:
    """One command line's search; calling it carries it out, to its end or from where it was cut off.

    Args:
        context: Hydra's, whose config loader composes the jobs.
        config: of the sweep.
        launcher: trains jobs.
        arguments: the command line.
    """

    def __init__(self, context: HydraContext, config: DictConfig, launcher: Launcher, arguments: list[str]) -> None:
        self.config, self.launcher, self._terminal = config, launcher, Terminal()
        loader = context.config_loader
        self._composer = loader if isinstance(loader, Composer) else Composer(loader.get_search_path())
        settings: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        self.settings: dict[str, Any] = settings
        parser = OverridesParser.create(config_loader=self._composer)
        params = parser.parse_overrides([f"{key}={values}" for key, values in self.settings["params"].items()])
        overrides = merged(params, parser.parse_overrides(arguments))
        self.space = {override.get_key_element(): override for override in varied(overrides)}
        self.fixed = [_typed(override) for override in overrides if not override.is_sweep_override()]
        self.run = self._run(self.fixed)
        self.asked = self._asked()
        self._distributions = {key: distribution(override) for key, override in self.space.items()}

    def __call__(self) -> dict[str, Any]:
        """The best candidate's values and objective, once there are as many candidates as asked for."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if self.run.plan:
            return self._plan()
        from mnist1d.analysis.read import StoreError
        from mnist1d.tracking import TrackingError

        study, failed = self._open(), 0
        self._prepare(study)
        try:
            while batch := self._batch(study, failed):
                failed += self._train(study, batch)
            return self._end(study)
        except (TrackingError, StoreError) as error:
            sys.exit(f"train.py: {error}")

    # -- what is asked -----------------------------------------------------------------------------------

    def _run(self, overrides: Sequence[str], hydra: Sequence[str] | None = None) -> Run:
        """The typed config of a job, under Hydra's own settings of this sweep unless others are given."""
        parsed = [parse_override(text) for text in overrides]
        groups = [text for text, override in zip(overrides, parsed, strict=True) if self._composer.is_choice(override)]
        own = as_typed(self.config.hydra.overrides.hydra) if hydra is None else hydra
        base = self._composer.base(self.config.hydra.job.config_name, [*own, *groups])
        changes = {o.key_or_group: o.value() for o in parsed if not self._composer.is_choice(o)}
        return validate(base.values(changes), base.raw.get("model"))

    def _asked(self) -> dict[str, str]:
        """Everything that a study's candidates must have in common, by key."""
        own = {key: _values(override) for key, override in self.space.items()}
        own |= {f"hydra.sweeper.{key}": spelled(self.settings[key]) for key in ("objective", "seeds", "sampler")}
        own |= {"tracking.uri": self.run.tracking.uri, "tracking.experiment": self.run.tracking.experiment}
        own |= {"force": "true"} if self.run.force else {}
        aside = {*DESCRIPTIVE, "seed", *own}
        return own | {key: spelled(value) for key, value in self.run.flat().items() if key not in aside}

    @property
    def name(self) -> str:
        """Name of the study, of its output folder and of the parent run."""
        parts = [self.run.experiment or "search", self.run.model.name]
        parts += [self.run.profile] * (self.run.experiment is not None)
        return self.settings["study_name"] or "-".join([*parts, digest(self.asked)[:8]])

    @property
    def storage(self) -> str:
        """URL of Optuna's database."""
        uri: str = self.run.tracking.uri
        place = Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else Path("mlruns")
        return self.settings["storage"] or f"{SQLITE}{place / 'optuna.db'}"

    # -- the study ---------------------------------------------------------------------------------------

    def _open(self) -> optuna.Study:
        """The study of this name, new or begun; ends the program if it cannot be had or is of another search."""
        try:
            if self.storage.startswith(SQLITE):
                Path(self.storage.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
            study = optuna.create_study(
                storage=self.storage, study_name=self.name, direction=self.settings["direction"], load_if_exists=True
            )
        except (
            OSError,
            SQLAlchemyError,
            ImportError,
            RuntimeError,
            ValueError,
            optuna.exceptions.OptunaError,
        ) as error:
            reason = str(error).strip().partition("\n")[0]
            sys.exit(f"train.py: hydra.sweeper.storage={self.storage} cannot be used: {type(error).__name__}: {reason}")
        known = study.user_attrs.get(ASKED)
        if known is None:
            study.set_user_attr(ASKED, json.dumps(self.asked))
        elif differing := list(_differences(json.loads(known), self.asked)):
            sys.exit(
                f"train.py: hydra.sweeper.study_name={self.name} is the name of another search:\n"
                + "\n".join(f"  {line}" for line in differing)
                + "\nGive this one a name of its own."
            )
        return study

    def _prepare(self, study: optuna.Study) -> None:
        """Send what the sweep writes into the study's folder, which joins its batches, and ask for what failed."""
        own = [text for text in as_typed(self.config.hydra.overrides.hydra) if text.startswith("hydra.sweep.dir=")]
        if not own:
            with read_write(self.config.hydra), open_dict(self.config.hydra):
                self.config.hydra.sweep.dir = str(Path(str(self.config.hydra.sweep.dir)).parent / self.name)
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        trials = study.get_trials(deepcopy=False)
        others = [trial.params for trial in trials if trial.state != TrialState.FAIL]
        for trial in trials:
            if trial.state == TrialState.FAIL and trial.params not in others and self._is_whole(trial):
                study.enqueue_trial(trial.params)
                others.append(trial.params)

    def _is_whole(self, trial: FrozenTrial) -> bool:
        """Whether all of a candidate was drawn before its process was killed."""
        return set(trial.params) == set(self.space)

    def _batch(self, study: optuna.Study, failed: int) -> list[Candidate]:
        """The candidates to be trained next: those without a result, then new ones."""
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING and not self._is_whole(trial):
                study.tell(trial.number, state=TrialState.FAIL)
        begun = [trial for trial in trials if trial.state == TrialState.RUNNING and self._is_whole(trial)]
        wanted = self.settings["n_trials"] - failed - sum(trial.state in SETTLED for trial in trials)
        size = min(wanted, self.size) if wanted > 0 else 0
        batch = [self._candidate(trial) for trial in begun[:size]]
        return [*batch, *(self._ask(study) for _ in range(size - len(batch)))]

    def _ask(self, study: optuna.Study) -> Candidate:
        """A new candidate. Its sampler's seed is its own: what is drawn does not depend on who drew the one before."""
        number, first = len(study.get_trials(deepcopy=False)), self.settings["sampler"]["seed"]
        seed = int(np.random.SeedSequence([first, number]).generate_state(1)[0])
        study.sampler = instantiate(self.config.hydra.sweeper.sampler, seed=seed)
        return self._candidate(study.ask(self._distributions))

    def _candidate(self, trial: optuna.Trial | FrozenTrial) -> Candidate:
        return Candidate(trial.number, {key: text(trial.params[key], self._distributions[key]) for key in self.space})

    @property
    def size(self) -> int:
        """Candidates in a batch: as many as make good stacks, yet few enough for the sampler to learn."""
        if self.settings["batch"] is not None:
            return int(self.settings["batch"])
        from mnist1d import cost

        members = min(cost.most_members([self.run]).values(), default=1)
        stacked = members * executors.chosen(self.config.hydra.launcher, Path()).workers // self.settings["seeds"]
        return max(1, min(stacked, math.ceil(self.settings["n_trials"] / FEWEST_BATCHES)))

    # -- training ----------------------------------------------------------------------------------------

    def _train(self, study: optuna.Study, batch: Sequence[Candidate]) -> int:
        """Train candidates with all of their seeds, tell the study, record; returns how many failed."""
        seeds, total = range(self.settings["seeds"]), self.settings["n_trials"]
        done = sum(trial.state in SETTLED for trial in study.get_trials(deepcopy=False))
        self._terminal.say(f"candidates {done + 1} to {done + len(batch)} of {total}")
        jobs = [job for candidate in batch for job in self._jobs(candidate.overrides, seeds)]
        values = [job.return_value for job in self._launch(jobs, batch[0].number * len(seeds))]
        failed = 0
        for place, candidate in enumerate(batch):
            own = values[place * len(seeds) : (place + 1) * len(seeds)]
            state, value = outcome(own)
            study.tell(candidate.number, value, state)
            failed += state == TrialState.FAIL
        self._record(study)
        return failed

    def _jobs(self, overrides: Sequence[str], seeds: Sequence[int]) -> Iterator[list[str]]:
        """Overrides of the runs of a candidate. It may diverge: that is an answer, and no failure of the sweep."""
        own = ["trainer.may_diverge=true"] * ("trainer.may_diverge" not in _keys(self.fixed))
        for seed in seeds:
            yield [*self.fixed, *own, *overrides, f"seed={seed}"]

    def _launch(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        return self.launcher.launch(jobs, initial_job_idx=first)

    def _plan(self) -> dict[str, Any]:
        """Have main show what all candidates would take; nothing is trained or written."""
        study = optuna.create_study(direction=self.settings["direction"])
        seeds, fresh = range(self.settings["seeds"]), range(FIRST_FRESH, FIRST_FRESH + self.settings["fresh_seeds"])
        drawn = [self._ask(study) for _ in range(self.settings["n_trials"])]
        jobs = [job for candidate in drawn for job in self._jobs(candidate.overrides, seeds)]
        jobs += [job for overrides in (drawn[0].overrides, []) for job in self._jobs(overrides, fresh)]
        self._terminal.say("Later candidates depend on the results of earlier ones; these are drawn without any.")
        self._launch(jobs, 0)
        return {}

    # -- what has come out -------------------------------------------------------------------------------

    def _record(self, study: optuna.Study) -> None:
        """Put the state of the search into the parent run: the objective by candidate, and the best one."""
        metric, complete = self.settings["objective"], study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        rows = [(f"candidate/{metric}", trial.number, _value(trial)) for trial in complete]
        tags = {"mnist1d.study": self.name, "mnist1d.candidates": _counted(study)}
        if complete:
            best = self._candidate(study.best_trial)
            rows += [(f"best/{metric}", 0, study.best_value), ("best/candidate", 0, float(best.number))]
            tags |= {f"best.{key}": value for key, value in best.values.items()}
            tags["mnist1d.command"] = self._command(best)
        self._note(tags, rows)

    def _note(self, tags: Mapping[str, str], rows: Sequence[tuple[str, int, float]]) -> None:
        """Add to what is recorded of the parent run."""
        from mnist1d.tracking import Recorder

        recorder = Recorder(self.run.tracking.uri, self.run.tracking.experiment)
        parent = recorder.find_sweep(str(self.config.hydra.sweep.dir), "")
        searched = {f"hydra.sweeper.params.{key}": self.asked[key] for key in self.space}
        searched |= {key: value for key, value in self.asked.items() if key.startswith("hydra.sweeper.")}
        if parent is not None:  # there is none where nothing could be trained
            recorder.note(parent.info.run_id, searched, tags, rows)

    def _end(self, study: optuna.Study) -> dict[str, Any]:
        """Show what was found and write it down, with the best candidate beside the defaults on test data."""
        self._terminal.say(f"{self.name}: {_counted(study)}")
        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not complete:
            return {}
        best = self._candidate(study.best_trial)
        found = {"name": "optuna", "best_evaluated_params": best.values, "best_value": study.best_value}
        OmegaConf.save(OmegaConf.create(found), Path(str(self.config.hydra.sweep.dir)) / "optimization_results.yaml")
        self._show(sorted(complete, key=_value, reverse=self.settings["direction"] == "maximize")[:SHOWN])
        if self.settings["fresh_seeds"]:
            self._compare(best)
        place, experiment = self.run.tracking, self.run.experiment
        report = [f"python analyze.py experiment={experiment} tracking.uri={shlex.quote(place.uri)}"] * bool(experiment)
        commands = [self._command(best), *report]
        self._terminal.where(uri=place.uri, experiment=place.experiment, sweep=self.name, commands=commands)
        return found

    def _compare(self, best: Candidate) -> None:
        """Train the best candidate and the defaults with fresh seeds, and say what the one gains on test data."""
        from mnist1d import remaining, summary

        fresh = range(FIRST_FRESH, FIRST_FRESH + self.settings["fresh_seeds"])
        self._terminal.say(f"the best candidate and the defaults, with {len(fresh)} fresh seeds")
        jobs = [job for overrides in ([], best.overrides) for job in self._jobs(overrides, fresh)]
        trained = self._launch(jobs, self.settings["n_trials"] * self.settings["seeds"])
        runs = [parse(job.cfg) for job in trained if job.cfg is not None]
        known = remaining.recorded(runs)
        finals = [known[print_].finals if print_ in known else None for print_ in map(fingerprint, runs)]
        self._terminal.table(summary.summarise([run.flat() for run in runs], finals))
        gain = _gain(finals[: len(fresh)], finals[len(fresh) :])
        if gain is not None:
            ends, points = {"mean": gain.mean, "low": gain.low, "high": gain.high}, shown(gain.scaled(100), "+z.1f")
            counted = f"(n = {gain.n} seeds, paired)"
            self._terminal.say(f"The best candidate gains {points} points over the defaults {counted}.")
            self._note({}, [(f"gain/{TESTED}/{name}", 0, value) for name, value in ends.items()])

    def _show(self, trials: Sequence[FrozenTrial]) -> None:
        """The best candidates, best first."""
        metric = self.settings["objective"]
        share = metric.endswith("acc_final")
        values = [f"{100 * _value(trial):.1f}" if share else f"{_value(trial):.3f}" for trial in trials]
        self._terminal.columns([self._candidate(trial).values for trial in trials], {metric: values}, "candidates")
        unit = "in percent, " if share else ""
        self._terminal.say(f"The best candidates; validation data, {unit}mean over n = {self.settings['seeds']} seeds.")

    def _command(self, candidate: Candidate) -> str:
        """The command line that trains a candidate, without the experiment that found it."""
        wanted, defaults = self._run([*self.fixed, *candidate.overrides]).flat(), self._run([], hydra=[]).flat()
        names = [f"{section}.name" for section in ("task", "model", "data", "optimizer")]
        groups = [f"{key.removesuffix('.name')}={wanted[key]}" for key in names if wanted[key] != defaults[key]]
        plain = {key: spelled(value) for key, value in self._run(groups, hydra=[]).flat().items()}
        aside = {*LABELS, *names, *({"seed", "data.seed"} - _keys(self.fixed))}
        changes = [f"{k}={spelled(v)}" for k, v in wanted.items() if k not in aside and plain.get(k) != spelled(v)]
        place = [text for text in self.fixed if text.startswith("tracking.")]
        return shlex.join(["python", "train.py", *groups, *changes, *place])


def distribution(override: Override) -> BaseDistribution:
    """What Optuna draws a key from: an interval, a range of whole numbers, or else one of several values as texts."""
    if override.is_interval_sweep():
        low, high = ends(override)
        whole = isinstance(low, int) and isinstance(high, int)
        return (IntDistribution if whole else FloatDistribution)(low, high, log=is_logarithmic(override))  # type: ignore[arg-type]
    if (numbers := whole_numbers(override)) is not None:
        values = [int(value) for value in numbers.range()]
        return IntDistribution(min(values), max(values), step=abs(int(numbers.step)))
    return CategoricalDistribution(tuple(override.sweep_string_iterator()))


def text(value: Any, drawn_from: BaseDistribution) -> str:
    """A drawn value as it is typed, a number with `DIGITS` significant digits."""
    if not isinstance(drawn_from, FloatDistribution):
        return str(value)
    return repr(min(max(float(f"{value:.{DIGITS}g}"), drawn_from.low), drawn_from.high))


def outcome(values: Sequence[float]) -> tuple[TrialState, float | None]:
    """What becomes of a candidate whose runs are worth `values`: nan for a failed one, infinite for a diverged one."""
    if any(map(math.isnan, values)):
        return TrialState.FAIL, None
    if any(map(math.isinf, values)):
        return TrialState.PRUNED, None
    return TrialState.COMPLETE, fmean(values)


def _gain(defaults: Sequence[Finals], best: Sequence[Finals]) -> Interval | None:
    """Test accuracy of the best candidate beyond that of the defaults, by seeds that both have."""
    both = [(own, other) for own, other in zip(best, defaults, strict=True) if own is not None and other is not None]
    if not both:
        return None
    return paired_difference([own[TESTED] for own, _ in both], [other[TESTED] for _, other in both])


def _differences(there: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    for key in dict.fromkeys([*here, *there]):
        if there.get(key) != here.get(key):
            yield f"{key}: {there.get(key, 'not given')} there, {here.get(key, 'not given')} here"


def _counted(study: optuna.Study) -> str:
    """How many candidates have come to which end."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "diverged", TrialState.FAIL: "failed"}
    counts = [f"{states.count(state)} {word}" for state, word in words.items() if state in states]
    return f"candidates: {', '.join(counts) or 'none yet'}"


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _typed(override: Override) -> str:
    return f"{override.get_key_element()}={_values(override)}"


def _values(override: Override) -> str:
    """What stands behind the key, as it was typed."""
    return str(override.input_line).partition("=")[2]


def _keys(overrides: Sequence[str]) -> set[str]:
    return {text.partition("=")[0] for text in overrides}
