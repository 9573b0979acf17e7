# Every target does its own set-up, in $(VENV); the stamp file makes a second run cheap.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
# torch goes first: a plain `torch` pulled in by another package may bring several GB of GPU libraries.
# On a machine with a GPU: make setup TORCH=torch
TORCH ?= torch==2.13.0
OUT ?= out/demo
BENCH ?= out/speed.json
TESTS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.deltatune-setup
PIP := $(BIN)/python -m pip --disable-pip-version-check
# one thread a worker: two workers that each take every core are slower than one
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test bench matrix notebook docs pictures check format release clean

help: ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(STAMP) ## Create $(VENV) with everything that the demo and the tests need

$(STAMP): pyproject.toml requirements/bundled.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install $(TORCH)
	$(PIP) install --no-deps -r requirements/bundled.txt
	$(PIP) install -e '.[bundled,parquet,dev]'
	touch $@

demo: $(STAMP) ## Compare five ways to fine-tune a T5 on real tables; 3 to 8 minutes on two CPU cores
	env -u OMP_NUM_THREADS $(BIN)/deltatune demo --out $(OUT)

test: $(STAMP) ## Run the tests (TESTS=path for a part of them)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

bench: $(STAMP) ## Measure the speed beside peft, the floor and more; 13 to 30 minutes on two idle CPU cores
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/speed.py --out $(BENCH)

matrix: $(STAMP) ## Run the whole contract suite and write methods/matrix.json and docs/methods.md from it
	$(BIN)/python -m pytest -q -n 2 -m "slow or not slow" -p tests.matrix --matrix tests/contract
	$(BIN)/python -m tests.methods_page

notebook: $(STAMP) ## Run docs/notebooks/*.ipynb and write what their cells show into them
	$(BIN)/python -m tests.notebook

docs: $(STAMP) ## Build the site into out/site, and fail on a warning: a link or an anchor that leads nowhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

pictures: $(STAMP) ## Draw docs/pictures anew from the report of the demo, with Chromium; runs the demo if OUT has none
	test -e $(OUT)/leaderboard.json || $(MAKE) demo
	$(BIN)/deltatune report $(OUT)
	$(BIN)/python -m tools.pictures $(OUT)/report.html report

check: $(STAMP) ## Lint, formatting, types, import directions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

release: $(STAMP) ## Go through the checklist of a release: make release VERSION=0.2.0 (ARGS=--cut, ARGS=--tag)
	$(PIP) install --quiet -r requirements/release.txt
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tools.release $(VERSION) $(ARGS)

clean: ## Remove what runs and tools left (not $(VENV))
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
