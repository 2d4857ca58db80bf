# The README's commands. The first run creates the virtual environment; later runs install nothing.
PYTHON ?= python3
# 12 or 13; if empty, what fits this machine: see install/cuda.py.
CUDA :=
BIN := .venv/bin
RUNS := runs
# Test processes, with one thread each: one per core, as far as memory reaches (2 GB each).
WORKERS ?= 2
# Tests set both of these to smaller values.
RENDER := --train 2000 --val 300 --scenes 80
DEMO :=

.PHONY: demo test test-page chromium lint test-lowest lock
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
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  echo "installing Chromium, which tests the measuring page" && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium >/dev/null; } || \
	  echo "Chromium is not installed: the test of the measuring page is skipped"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers $(WORKERS)

.venv/installed: setup.cfg install/cuda12.txt install/cuda13.txt
	$(PYTHON) -m install .venv $(if $(CUDA),--cuda $(CUDA))
	touch $@

# The suite on the lower bounds of setup.cfg, in an environment of its own. Python 3.10 to 3.12: numpy 2.0 has no wheel
# for 3.13.
test-lowest:
	$(PYTHON) -m install .venv-lowest --lowest
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile

# Lock what setup.cfg asks for. Versions stay as they are, as far as they still fit; UPGRADE=--upgrade takes the newest.
lock: .venv/installed
	$(BIN)/python -m pip install uv
	for cuda in 12 13; do \
	    $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate \
	        --custom-compile-command "make lock" $(UPGRADE) --extra dev --extra cuda$$cuda \
	        --constraint install/cuda$$cuda.in setup.cfg --output-file install/cuda$$cuda.txt || exit; \
	done
