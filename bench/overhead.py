"""What Lightning and tracking add to the bare stacked loop: 20 members, 2000 steps, evaluated every 250."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch

from bench.timing import Timing
from mnist1d.blocks import StackData
from mnist1d.classification import StackedClassification, evaluate, train_steps
from mnist1d.config import Run
from mnist1d.fit import fit_once
from mnist1d.plan import Stack
from mnist1d.provenance import cores
from mnist1d.tracking import Recorder


def bare(runs: list[Run]) -> None:
    """The stacked loop with its evaluations, nothing recorded."""
    torch.set_num_threads(runs[0].trainer.threads or cores())
    data = StackData(runs)
    data.setup()
    module = StackedClassification(runs)
    optimizer, batches, done = module.configure_optimizers(), data.batches(), 0
    for stop in data.stops:
        train_steps(module.model, optimizer, batches, range(done, stop))
        done = stop
        if data.schedule.evaluates(stop - 1):
            evaluate(module.model, data.splits)


class Record(pl.Callback):
    """Records every evaluation, as a sweep does."""

    def __init__(self, recorder: Recorder, ids: list[str]) -> None:
        self.recorder, self.ids = recorder, ids

    def on_train_batch_end(self, *args: object) -> None:
        """Log the metrics of a block for every member."""
        outputs = args[2]
        assert isinstance(outputs, dict)
        for n, run_id in enumerate(self.ids):
            rows = [(name, outputs["step"], values[n].item()) for name, values in outputs["metrics"].items()]
            self.recorder.log(run_id, rows)


def recorded(runs: list[Run], recorder: Recorder) -> None:
    """The same fit in Lightning, every run recorded with its metrics and weights."""
    ids = [recorder.start(run, parent=None, name="bench", tags={}) for run in runs]
    stack = Stack(tuple(runs), tuple(range(len(runs))))
    module = fit_once(stack, [Record(recorder, ids)])
    for n, (run_id, history) in enumerate(zip(ids, module.histories, strict=True)):
        recorder.finish(
            run_id,
            "FINISHED",
            final=history.final(),
            reason=None,
            weights=module.model.member_state(n),
            resources={},
        )


def measure(make_run: Callable[..., Run], turns: int) -> tuple[Timing, Timing]:
    """Bare loop and full fit in turn; milliseconds per step per run, everything included."""
    steps, members = 2000, 20
    runs = [make_run("model=mlp", f"trainer.max_steps={steps}", f"seed={seed}") for seed in range(members)]
    timings = Timing("bare loop", []), Timing("Lightning and tracking", [])
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(f"sqlite:///{Path(folder)}/mlflow.db", "bench")
        works = (lambda: bare(runs), lambda: recorded(runs, recorder))
        for turn in range(turns + 1):
            for work, timing in zip(works, timings, strict=True):
                start = time.perf_counter()
                work()
                if turn:  # the first is a warm-up
                    timing.milliseconds.append((time.perf_counter() - start) * 1000 / steps / members)
    return timings
