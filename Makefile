# The README's commands. The first run creates the virtual environment; later runs install nothing.
PYTHON ?= python3
BIN := .venv/bin
RUNS := runs
# Test processes, with one thread each: one per core, as far as memory reaches (2 GB each).
WORKERS ?= 2
# Tests set both of these to smaller values.
RENDER := --train 2000 --val 300 --scenes 80
DEMO :=

.PHONY: demo test test-page chromium lint
demo: .venv/installed $(RUNS)/release/VS_KS.zip
	$(BIN)/python -m dali_pipes $(RUNS)/release --index-cache $(RUNS)/index-cache
	rm -rf $(RUNS)/demo
	$(BIN)/python -m train --release $(RUNS)/release --preset demo --out $(RUNS)/demo $(DEMO)

$(RUNS)/release/VS_KS.zip: | .venv/installed
	$(BIN)/python -m bench.render $(RUNS)/release $(RENDER)

test: lint chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test-page: .venv/installed chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_measure_page.py

# The browser that tests/test_measure_page.py needs; without it that test is skipped.
chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium >/dev/null; } || \
	  echo "Chromium is not installed: the test of the measuring page is skipped"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .[dev]
	touch $@
