# The two commands of the README.  Both make the virtual environment if need be; neither installs twice.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint
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
