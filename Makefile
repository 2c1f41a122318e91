# make scene   a 360-degree scene of the example photograph, in out/coffee
# make test    the tests
# make lint    style, types and import floors
# make docs    the documentation as a site, in site/: open site/index.html
# make mutants COUNT=60   change the code at random places, and see a test fail (SEED, LOG, WORKERS)
# make clean   remove the virtual environment and the caches (not your scenes)
#
# PYTHON=/path/to/python chooses the Python; WORKERS=1 runs the tests one at a time.

SHELL := /bin/bash
BIN := .venv/bin
WORKERS ?= 2
COUNT ?= 60
SEED ?= 0
LOG ?= out/mutants.jsonl
.PHONY: scene test lint docs mutants clean

scene: .venv/.ready
	$(BIN)/zeronvs scene examples/coffee.png -o out/coffee --resume

test: .venv/.ready-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

lint: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: .venv/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

mutants: .venv/.ready-dev
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py --count $(COUNT) --seed $(SEED) --log $(LOG) --workers $(WORKERS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.venv/.ready: pyproject.toml constraints.txt
	@.ci/environment
	@touch $@

.venv/.ready-dev: pyproject.toml constraints.txt
	@.ci/environment dev
	@touch .venv/.ready $@
