# `make` shows the targets. The environment is .venv; nothing outside the repository is changed.
.DEFAULT_GOAL := help
.PHONY: help install run test slow portable elsewhere lint types check docs clean

# An interpreter that exists is asked for its version below; `make PYTHON=/path/to/python install` names another.
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
STAMP := .venv/.installed
# Test files side by side, the longest first (tests/longest.py): as many as there are cores, four at most; WORKERS=0 runs one after another.
WORKERS ?= logical
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

export RAY_USAGE_STATS_ENABLED := 0
# Bytecode is kept, whatever the environment says: without it each process compiles torch anew, 2 s of computing.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Build .venv from pyproject.toml and constraints.txt (nothing to do when up to date)

# A .venv that works is kept and brought up to date; any other is made anew.
$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c 'import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; then \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null || { \
	    echo "rayunlearn needs Python 3.11 to 3.14; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there)." >&2; \
	    echo "Install Python 3.11, or name one: make PYTHON=/path/to/python3.11 install" >&2; exit 1; }; \
	  echo "Making .venv with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear .venv; \
	fi
	@echo "Installing rayunlearn into .venv (the first time takes minutes: torch brings its CUDA libraries)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile \
	  --constraint constraints.txt --editable '.[dev,bayes,evidence,http,images,optuna,ray,report,s3,s3-tests]'
	@touch $@

run: install ## Forget three digits, one after another: jobs/sequential_unlearn.py (more flags: ARGS='--seed 1')
	@$(BIN)/python jobs/sequential_unlearn.py $(ARGS)

test: install ## Run the tests (some of them: ARGS='tests/scheduling -x')
	@$(PYTEST) -m 'not slow' $(ARGS)

slow: install ## Run the tests that take long: kills, submitted jobs, several workers
	@$(PYTEST) -m slow $(ARGS)

portable: install ## Run the learned tests on other arithmetic and from other root seeds (ARGS='--roots 3 4 5')
	@$(BIN)/python -m tests.portable $(ARGS)

# In CI: two other instruction sets.
elsewhere: install
	@$(BIN)/python -m tests.portable --settings avx2 sse41 --roots 0 --brief

lint: install ## Check the code's form with ruff
	@$(BIN)/ruff check .

types: install ## Check the types with mypy
	@$(BIN)/mypy

# mypy uses one core; the learned tests use the other meanwhile.
check: lint ## Everything that CI runs
	@$(MAKE) --no-print-directory -j2 --output-sync=target types elsewhere
	@$(MAKE) --no-print-directory test slow

# By itself: CI has no time for the site, and its packages are no part of `make install`.
docs: install ## Build the documents as a site in site/, with warnings as errors
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile \
	  --constraint constraints.txt --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The site is in site/; open site/index.html"

clean: ## Remove .venv, caches and build folders; what runs have stored stays
	rm -rf .venv build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find rayunlearn jobs benchmarks tests -type d -name __pycache__ -prune -exec rm -rf {} +
