# Every target that needs the environment makes it first: .ci/setup is quick where nothing has changed.
# PYTHON=python3.12 make test      another interpreter (3.11 or newer)
.DEFAULT_GOAL := help
.PHONY: help setup align test test-all lint format types wheel clean

BIN := .venv/bin
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help:  ## list the targets
	@awk -F ':[^#]*##' '/^[a-z-]+:.*##/ {printf "  make %-10s%s\n", $$1, $$2}' Makefile

setup:  ## make .venv with everything that the targets need
	@.ci/setup

align: setup  ## simulate a misaligned ITS2, align its 24,120 sensors, show before and after
	$(BIN)/alignnet simulate sample=its2_demo
	$(BIN)/alignnet train experiment=its2_demo

test: setup  ## the tests, without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

test-all: setup  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m ''

lint: setup  ## ruff: rules and format
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check

format: setup  ## ruff: mend what it can
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

types: setup  ## mypy
	$(BIN)/python -m mypy

wheel: setup  ## build dist/alignnet-*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:  ## remove builds and caches; .venv and outputs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find alignnet tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
