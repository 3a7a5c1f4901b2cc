# Everything goes into .venv here, and what is made into build/.
#
#   make demo        environment, checkpoint, export, parity, server, 18 findings of a real CT
#   make test        environment and tests
#
# Variables:
#   PYTHON           interpreter to make the environment with (3.11 or 3.12)
#   TORCH_INDEX_URL  index to take torch from. By default pip takes it from its own index, whose
#                    build for Linux brings several GB of CUDA libraries. Without a GPU, avoid them:
#                    make demo TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

PYTHON ?= $(shell for python in python3 python3.11 python3.12; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { echo $$python; break; }; done)
TORCH_INDEX_URL ?=
VENV := .venv
BIN := $(VENV)/bin
DISTRIBUTIONS := client export server benchmarks
INSTALLED := $(VENV)/installed
TEST_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help environment demo demo-small test test-slow lint format types clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

environment: $(INSTALLED) ## Make .venv with everything in it

$(INSTALLED): constraints.txt tests/requirements.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
	@sh scripts/check-machine.sh "$(PYTHON)"
	@echo "Making $(VENV): takes some minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) torch
	@$(BIN)/python -m pip install --quiet -c constraints.txt -r tests/requirements.txt $(DISTRIBUTIONS:%=-e ./%)
	@touch $@

demo: $(INSTALLED) ## A real CT through a real Triton at the published geometry (about 5 minutes)
	@$(BIN)/ctclip demo

demo-small: $(INSTALLED) ## The same at a small geometry (under a minute)
	@$(BIN)/ctclip demo --small

test: $(INSTALLED) ## Run the tests
	@$(BIN)/python -m pytest -m "not slow and not gpu and not weights" $(TEST_FLAGS)

test-slow: $(INSTALLED) ## Run the tests at the published geometry, too
	@$(BIN)/python -m pytest -m "not gpu and not weights" $(TEST_FLAGS)

lint: $(INSTALLED) ## Check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(INSTALLED) ## Check types
	@$(BIN)/mypy

format: $(INSTALLED) ## Format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: ## Remove what was built; the environment stays
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
