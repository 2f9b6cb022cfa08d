# make help shows what there is. The first call makes .venv; later calls find that nothing changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_LOCK := requirements/run.txt
DEV_LOCK := requirements/dev.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench faults lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

# pip says nothing for half a minute; without the line above it a newcomer would think that it hangs.
$(VENV)/.run: $(RUN_LOCK) pyproject.toml
	@echo "Installing into $(VENV); this takes about half a minute, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r $(RUN_LOCK)
	@$(BIN)/python scripts/link_source.py
	@touch $@

$(VENV)/.dev: $(DEV_LOCK) $(VENV)/.run
	@echo "Installing the test tools, once."
	@$(PIP) install --require-hashes -r $(DEV_LOCK)
	@touch $@

demo: $(VENV)/.run ## The whole job on this machine: import, send, bounce, open, unsubscribe, reconcile
	@$(BIN)/posthouse demo

test: $(VENV)/.dev check ## Lint, types, import contracts, and all tests
	@$(BIN)/python -m pytest

check: $(VENV)/.dev ## Lint, format, strict types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## Put the code in its format
	@$(BIN)/ruff check --fix -q .
	@$(BIN)/ruff format -q .

bench: $(VENV)/.dev ## Delivered messages per second against the signing limit, and what each stage costs
	@$(BIN)/python -m bench

faults: $(VENV)/.dev ## kill -9 at every point of the path, full disks, silent peers; then count everybody
	@$(BIN)/python -m bench.faults

lock: ## Resolve the dependencies anew (needs uv)
	@uv pip compile --universal --generate-hashes --python-version 3.11 --no-header -q requirements/run.in -o $(RUN_LOCK)
	@uv pip compile --universal --generate-hashes --python-version 3.11 --no-header -q requirements/dev.in -o $(DEV_LOCK)

clean: ## Remove what the tools made
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache posthouse-demo
