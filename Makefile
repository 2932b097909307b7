# Everything a user types. `make help` lists it; each target sets up what it needs.
PYTHON  ?= python3.11
VENV    := .venv
BIN     := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PORT    ?= 5000

.DEFAULT_GOAL := help
.PHONY: help setup train report reproduce-all reproduce-paper ablations test check bench ui clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## create .venv and install the tested versions

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

train: $(INSTALLED)  ## run the main sweep (MLP widths under label noise) and print the comparison
	$(BIN)/python train.py -m model=mlp model.hidden=10,20,50,100 data.label_noise=0.15

report: $(INSTALLED)  ## write the report of all recorded experiments, mlruns/report/report.html
	$(BIN)/python analyze.py

REPRODUCE = $(BIN)/python -m mnist1d.reproduce profile=$(or $(PROFILE),quick) $(SEEDS:%=seeds=%) $(WORKERS:%=workers=%)

reproduce-all: $(INSTALLED)  ## every experiment, then the report; PROFILE=quick or paper, SEEDS=n, WORKERS=n; goes on where it was cut off
	$(REPRODUCE)

reproduce-paper: $(INSTALLED)  ## the paper's experiments alone, with the same settings
	$(REPRODUCE) experiments=paper

ablations: $(INSTALLED)  ## the ablations alone, with the same settings
	$(REPRODUCE) experiments=ablations

test: check  ## run all checks and tests
	$(BIN)/python -m pytest -n auto

check: $(INSTALLED)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## time stacks against plain loops, side by side; writes docs/bench.md, bench.json and performance.md
	$(BIN)/python -m bench

ui: $(INSTALLED)  ## open the MLflow UI on http://127.0.0.1:5000 (PORT=n for another)
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlruns/mlflow.db}" --host 127.0.0.1 --port $(PORT) --workers 1

clean:  ## remove the environment and caches; recorded runs in mlruns/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
