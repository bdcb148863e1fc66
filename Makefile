VENV ?= .venv
PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=
MINUTES ?= 10
CONSTRAINTS ?= constraints.txt
EXTRAS ?= tests

BIN := $(VENV)/bin
ENV := $(VENV)/.installed
DOCS_ENV := $(VENV)/.installed-docs
# One thread a process; what is left of the work goes to whoever is done first.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
WHEEL_PYTEST = $(subst $(BIN),$(abspath $(VENV)-wheel/bin),$(PYTEST))

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-torture test-minimum test-wheel lint docs check dist clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  VENV=$(VENV)  PYTHON=$(PYTHON)  JOBS=$(JOBS)  PYTEST_ARGS=$(PYTEST_ARGS)  MINUTES=$(MINUTES)'

demo: $(ENV) ## run examples/quickstart.py
	$(BIN)/python examples/quickstart.py

test: $(ENV) ## run the tests, in JOBS processes: every law, in all pairs of options
	$(PYTEST) -m "not slow and not torture" $(PYTEST_ARGS)

test-all: $(ENV) ## run the slow tests too: more combinations, the paper's scripts, memory
	$(PYTEST) -m "not torture" $(PYTEST_ARGS)

# One process: what it prints says how to run a failure again.
test-torture: $(ENV) ## random calls, faults and loads, for MINUTES; SEED repeats a run
	SKEVAE_TORTURE_MINUTES=$(MINUTES) $(if $(SEED),SKEVAE_TORTURE_SEED=$(SEED)) OMP_NUM_THREADS=1 \
	    $(BIN)/python -m pytest -m torture tests/torture $(PYTEST_ARGS)

test-minimum: ## run the quick tests with the oldest versions that setup.cfg allows
	$(MAKE) test VENV=$(VENV)-minimum CONSTRAINTS=constraints-minimum.txt EXTRAS=tests

# The tests are those of the sdist. Its package is removed, so only the wheel can be imported.
test-wheel: dist ## run the quick tests of the sdist with the wheel, outside of this folder
	test -d $(VENV)-wheel || $(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install -c constraints.txt "$$(echo dist/*.whl)[tests]"
	$(VENV)-wheel/bin/python -m pip install --force-reinstall --no-deps dist/*.whl
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	    tar -xzf dist/*.tar.gz -C "$$folder" --strip-components 1 && rm -r "$$folder"/skevae* && \
	    cd "$$folder" && $(WHEEL_PYTEST) -m "not slow and not torture" $(PYTEST_ARGS)

lint: $(ENV) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy skevae

docs: $(DOCS_ENV) ## build the documentation into docs/_build/html
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W -b html docs docs/_build/html

check: lint test docs ## lint, test and docs

# Isolated: the environments that build the two hold setuptools and nothing else.
dist: ## build the sdist, and from it the wheel, into dist
	test -d $(VENV)-dist || $(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install -c constraints.txt build
	rm -rf build dist skevae.egg-info
	$(VENV)-dist/bin/python -m build

clean: ## remove the environment, caches and build products
	rm -rf $(VENV) $(VENV)-dist $(VENV)-minimum $(VENV)-wheel build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/auto_examples docs/api/generated docs/api/backreferences docs/sg_execution_times.rst examples/output
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# One environment, set up once: the stamp is touched only after everything is installed.
$(ENV): setup.cfg pyproject.toml $(CONSTRAINTS)
	@command -v $(PYTHON) >/dev/null || { \
	    echo "error: '$(PYTHON)' not found. Name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: skevae needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." >&2; \
	    echo "       Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { \
	    echo "error: no virtual environment; Debian and Ubuntu ship it as python3-venv." >&2; exit 1; }
	$(BIN)/python -m pip install -c $(CONSTRAINTS) -e ".[$(EXTRAS)]"
	@touch $@

$(DOCS_ENV): $(ENV)
	$(BIN)/python -m pip install -c $(CONSTRAINTS) -e ".[docs]"
	@touch $@
