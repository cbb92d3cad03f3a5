# Everything here works on a fresh machine that has Python 3.11 or newer (with venv) and make.
#
#   make demo        install, then the demo: predicted against default initialization, ~4 minutes
#   make test        install, then the tests
#   make check       install, then style, types, import layers and tests
#   make docs        install, then the documentation site in build/site
#
# VENV is where the environment lives (default .venv); several clones may share one. ARGS is handed
# to the command, such as `make test ARGS=tests/cli` or `make demo ARGS=--fast`.

VENV ?= .venv
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

# The environment is installed once and again whenever what pyproject.toml asks for changes.
DEPENDENCIES := $(shell $(PYTHON) .ci/dependencies.py 2>/dev/null)
ifeq ($(DEPENDENCIES),)
$(error $(PYTHON) must be Python 3.11 or newer, got $(shell $(PYTHON) --version 2>&1); name \
another one with `make PYTHON=python3.12 ...`)
endif

STAMP := $(VENV)/.installed-$(DEPENDENCIES)
BIN := $(VENV)/bin
# This clone comes first on the import path, whichever clone a shared environment was made from.
export PYTHONPATH := $(CURDIR)

.PHONY: help demo docs pictures test test-slow test-zoo lint check install clean dependencies

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

demo: install  ## predicted against default initialization; prints a table, writes an HTML report
	$(BIN)/python -m ghn.cli demo $(ARGS)

# Each process begins with its share of the folders, so that it imports less and makes the fixtures
# of a module once; whoever is done first takes from the others.
test: install  ## the default tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-slow: install  ## the tests that train or compile
	$(BIN)/python -m pytest -m slow --timeout 1200 $(ARGS)

test-zoo: install  ## trace whole model zoos
	$(BIN)/python -m pytest -m zoo --timeout 7200 $(ARGS)

docs: install  ## the documentation site, in build/site; broken links and undocumented names fail
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[docs]'
	$(BIN)/python docs/build.py

pictures: install  ## the pictures of the docs again, with Chromium; ARGS names some of them
	$(BIN)/python docs/pictures.py $(ARGS)

lint: install  ## style, formatting, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## lint and test

install: $(STAMP)  ## make the virtual environment, once

$(STAMP): | pyproject.toml
	@echo "Installing into $(VENV); the first time that downloads several gigabytes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

dependencies:  ## print the fingerprint of the dependency list, a key for caches
	@echo $(DEPENDENCIES)

clean:  ## remove the virtual environment and what the tools left
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
