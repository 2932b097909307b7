"""Whole processes, imports and tracking included: the main job with ten seeds, ours and a plain-loop script.

python -m bench.main_job plain      the plain script: 40 runs one after the other, nothing recorded
"""

import os
import subprocess
import sys
import tempfile
import time

WIDTHS, SEEDS = (10, 20, 50, 100), 10
OURS = ("model=mlp", "model.hidden=10,20,50,100", "data.label_noise=0.15", f"seed=range({SEEDS})")


def plain_script() -> None:
    """What a careful user writes without us: loops over widths and seeds, 6001 steps, 25 evaluations each."""
    from bench import make_run
    from bench.plain import plain_run

    for hidden in WIDTHS:
        accuracies = [
            plain_run(make_run("model=mlp", f"model.hidden={hidden}", "data.label_noise=0.15", f"seed={seed}"))
            for seed in range(SEEDS)
        ]
        print(f"hidden={hidden}: {sum(accuracies) / SEEDS:.3f}")


def measure() -> tuple[float, float]:
    """Seconds of both processes, plain first, once each: they take minutes."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"tracking.uri=sqlite:///{folder}/mlflow.db"
        return (
            whole_process([sys.executable, "-m", "bench.main_job", "plain"]),
            whole_process([sys.executable, "train.py", "-m", *OURS, uri]),
        )


def whole_process(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return time.perf_counter() - start


if __name__ == "__main__" and sys.argv[1:] == ["plain"]:
    plain_script()
