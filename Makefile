# Everything a checkout needs: `make help` lists it. Only python3.11 and make must be there.

PYTHON ?= python3.11
PORT ?= 3000
RATE ?= 5
WORKERS ?= 4
KILLS ?= 1000
MUTATIONS ?= 6000
SEED ?= 1

VENV := .venv
BIN := $(VENV)/bin
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ingestion-platform
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready

# Compiled modules are worth keeping: Dagster imports a thousand of them in every process.
unexport PYTHONDONTWRITEBYTECODE
# Nothing from outside may stand in for what the lock files name.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export UV_PYTHON := $(BIN)/python
export UV_NO_CONFIG := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export RUFF_CACHE_DIR := $(CACHE)/ruff
export MYPY_CACHE_DIR := $(CACHE)/mypy
export HYPOTHESIS_STORAGE_DIRECTORY := $(CACHE)/hypothesis
PYTEST := $(BIN)/python -m pytest -o cache_dir=$(CACHE)/pytest -n $(WORKERS) --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help demo dev wheel test test-faults test-fast lint docs services services-down lock clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUN_READY)  ## All domains from their topics to gold tables, embedded, in under a minute
	@$(BIN)/ingest demo

dev: $(RUN_READY)  ## Live: Dagster on PORT (3000), a simulator sending RATE (5) events a second
	@exec $(BIN)/ingest dev --port $(PORT) --rate $(RATE)

wheel: $(RUN_READY)  ## Build dist/ingestion_platform-*.whl, which runs without the checkout
	@rm -rf dist
	@$(BIN)/uv build --quiet --wheel --no-build-isolation --offline --out-dir dist .
	@ls dist/*.whl

test: lint  ## Lint, then all tests; what needs tools that are absent is named and left out
	@$(PYTEST)

test-faults: $(DEV_READY)  ## The tests of faults, long: KILLS (1000), MUTATIONS (6000), by SEED (1)
	@$(PYTEST) -n 1 --timeout 0 -m "fault or scales or long" --long --kills $(KILLS) --seed $(SEED) \
		--mutations $(MUTATIONS) --csv-mb 2000

test-fast: $(DEV_READY)  ## The quick tests: no servers, no broker, nothing slow
	@$(PYTEST) -n 2 -m "not slow and not services and not embedded" tests/unit

lint: $(DEV_READY)  ## Style, types, dependencies, commit subjects, import rules, contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/deptry . --no-ansi 2>/dev/null || { $(BIN)/deptry . --no-ansi; exit 1; }
	@$(BIN)/python tools/commit_subjects.py
	@$(BIN)/lint-imports --cache-dir $(CACHE)/import-linter
	@$(BIN)/ingest contract lint

docs: $(RUN_READY)  ## Write the pages that follow from contracts, tests and rules: streams, faults, metrics, formats
	@rm -f docs/streams/*.md
	@$(BIN)/ingest contract export --format markdown --output docs
	@$(BIN)/python docs/write_faults.py
	@$(BIN)/python docs/write_metrics.py
	@$(BIN)/python docs/write_formats.py

services: $(DEV_READY)  ## Start Kafka, MinIO and Postgres natively; shows the settings to use them
	@$(BIN)/python -m services up kafka minio postgres
	@$(BIN)/python -m services env

services-down:  ## Stop those servers
	@test ! -x $(BIN)/python || $(BIN)/python -m services down

LOCK = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --group build \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: $(RUN_READY)  ## Write the requirements files again (UPGRADE=1: with the newest versions)
	@$(LOCK) --group dev --output-file requirements-dev.lock
	@$(LOCK) --constraints requirements-dev.lock --output-file requirements.lock
	@$(subst pyproject.toml,,$(LOCK)) --constraints requirements-dev.lock \
		--output-file requirements-build.lock

clean:  ## Stop the embedded broker; remove environment, demo data and caches
	@test ! -x $(BIN)/ingest || $(BIN)/ingest --quiet broker stop
	@rm -rf $(VENV) .platform dbt_project/target dbt_project/logs .pytest_cache .hypothesis
	@rm -rf $(CACHE)/ruff $(CACHE)/mypy $(CACHE)/pytest $(CACHE)/hypothesis $(CACHE)/import-linter
	@find . -name __pycache__ -type d -not -path './.services/*' -prune -exec rm -rf {} +

# pip brings uv, which installs the rest in a tenth of the time. All of it is pinned by hash.
$(BIN)/uv: requirements-build.lock
	@command -v $(PYTHON) >/dev/null || \
		{ echo "$(PYTHON) is not there; install it, or say make PYTHON=..." >&2; exit 1; }
	@echo "setting up $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements-build.lock
	@touch $@

# The project itself, from its checkout; its build needs nothing that is not installed by now.
PROJECT = $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --offline --editable .

$(RUN_READY): $(BIN)/uv requirements.lock pyproject.toml
	@$(BIN)/uv pip install --quiet --require-hashes --requirements requirements.lock
	@$(PROJECT)
	@touch $@

$(DEV_READY): $(BIN)/uv requirements-dev.lock pyproject.toml
	@$(BIN)/uv pip sync --quiet --require-hashes requirements-dev.lock
	@$(PROJECT)
	@touch $(RUN_READY) $@
