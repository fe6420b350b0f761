# Every target sets up what it needs; `make search` and `make test` are all that a newcomer has to know.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=
OUTPUTS ?= outputs
PORT ?= 5000
# On a machine that has its own torch for its GPU: make gpu-check GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help search test check lint types ui bench gpu-check gpu-bench clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

$(INSTALLED): requirements.lock pyproject.toml
	@echo "Installing into $(VENV) (some 2.5 GB, a few minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@

search: $(INSTALLED)  ## search the embedded model's designs and write a report (ARGS="--help" for more)
	@$(BIN)/python -m cluster.search --outputs $(OUTPUTS) $(ARGS)

test: $(INSTALLED)  ## run all tests that need no GPU
	@$(BIN)/python -m pytest -m "not gpu" -q

check: lint types test  ## what CI runs: ruff, mypy, the tests

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED)
	@$(BIN)/mypy

ui: $(INSTALLED)  ## open MLflow on the searches' runs (PORT=5000)
	@$(BIN)/python -m cluster.mlflow --outputs $(OUTPUTS) --port $(PORT)

bench: $(INSTALLED)  ## print the ratios against the named peers, measured here and now
	@$(BIN)/python -m tests.benchmarks

gpu-check: $(if $(findstring $(BIN),$(GPU_PYTHON)),$(INSTALLED))  ## run the tests that need a GPU
	@$(GPU_PYTHON) -m pytest -m gpu -q tests/trainables/test_gpu.py

gpu-bench: $(if $(findstring $(BIN),$(GPU_PYTHON)),$(INSTALLED))  ## print the ratios on a GPU
	@$(GPU_PYTHON) -m tests.benchmarks --device cuda

clean:  ## remove the environment and all caches; outputs and the asset cache stay
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
