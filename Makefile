# The README's commands.  Each makes the virtual environment if need be; a second run installs nothing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint
demo: .venv/installed
	test -e runs/release/VL_KS_LINE.zip || $(BIN)/python -m bench.render runs/release --train 2000 --val 300 --scenes 80
	$(BIN)/python -m dali_pipes runs/release
	rm -rf runs/demo
	$(BIN)/python -m train --release runs/release --preset demo --out runs/demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .[dev]
	touch $@
