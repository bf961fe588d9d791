# Everything runs from .venv, made on first use with the versions in requirements/lock.txt.
#   make PYTHON=python3.13 VENV=.venv-3.13 test    another interpreter, beside the first

VENV ?= .venv
PYTHON ?=
DEMO_FLAGS ?=
PYTEST_FLAGS ?= -rs --durations 12 --cov --cov-fail-under=85

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The lock file is complete, so nothing is left to resolve.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
# uv serves `make lock` only: it resolves one file for all Python versions and systems.
UV := uv==0.13.8

.PHONY: help demo test lint format types docs lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: $(READY) ## make data, train BC and MISA, evaluate, print a table, draw the curves
	$(BIN)/python -m leashrl.demo $(DEMO_FLAGS)

test: $(READY) ## the whole test suite, the slow tests, doctests and coverage included
	$(BIN)/python -m pytest -m "" $(PYTEST_FLAGS)

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## ruff: mend what can be mended
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: $(READY) ## pyright, standard
	$(BIN)/pyright --pythonpath $(BIN)/python

# Not with --quiet: it hides warnings from --strict as well.
docs: $(READY) ## the documentation site, in site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: $(READY) ## resolve the pinned versions again
	$(BIN)/python -m pip install --quiet $(UV)
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --no-header \
	    --extra mujoco --extra minari --extra tables --extra ogbench --extra report --extra video --extra sweep --extra export --extra dev \
	    pyproject.toml --output-file requirements/lock.txt
	@! grep -nE '^(nvidia|jax-cuda|torch|--|.*://)' requirements/lock.txt # neither CUDA nor an index's address

clean: ## remove the environment, caches and builds
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* site dist

# --- The environment ---------------------------------------------------------

# The first that starts, is 3.11 to 3.13 and can make an environment (Debian splits venv off).
define find_python
for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
    "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
        2>/dev/null && found="$$python" && break; \
done; \
[ -n "$$found" ] || { echo "leashrl needs Python 3.11, 3.12 or 3.13 with its venv module" \
    "(on Debian: apt install python3-venv); name yours with make PYTHON=..." >&2; exit 1; }
endef

$(READY): pyproject.toml requirements/lock.txt
	@$(find_python); echo "$(VENV): installing requirements/lock.txt for $$("$$found" --version)"; \
	"$$found" -m venv $(VENV)
	@$(PIP) --no-compile -r requirements/lock.txt
	@$(PIP) --no-build-isolation -e .
	@touch $@
