# Everything goes into .venv here, and what is made into build/.
#
#   make demo        environment, checkpoint, export, parity, server, 18 findings of a real CT
#   make test        environment and tests
#   make bench       latency and throughput of the embedded server, parity verdict first
#   make gpu-check   on a machine with an NVIDIA GPU: build engines, run the parity check
#   make gpu-bench   there: serve the engines by the official container, and measure
#
# Variables:
#   PYTHON           interpreter to make the environment with (3.11 or 3.12)
#   TORCH_INDEX_URL  index to take torch from. By default pip takes it from its own index, whose
#                    build for Linux brings several GB of CUDA libraries. Without a GPU, avoid them:
#                    make demo TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
#   GPU=1            for a machine with an NVIDIA GPU: torch with CUDA, onnxruntime-gpu in the place of
#                    onnxruntime, TensorRT of the serving image's version; .venv remembers it
#   REPOSITORY       what bench, gpu-check and gpu-bench work on; by default that of make demo
#   CHECKPOINT       its checkpoint and the folder of its text model: the reference to compare with.
#   TEXT_MODEL       Without them it is the repository's own ONNX graphs
#   URL              HOST:PORT (gRPC) of a Triton that runs: measure that one, start none
#   RESULTS          where JSON files go (benchmarks/results)
#   BENCH_FLAGS      further flags of ctclip bench (make bench, gpu-bench)
#   TEST_WORKERS     processes of make test and test-slow (4)
#   PARITY_FLAGS     further flags of ctclip parity (make gpu-check)

PYTHON ?= $(shell for python in python3 python3.11 python3.12; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { echo $$python; break; }; done)
TORCH_INDEX_URL ?=
CPU_TORCH := https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
DISTRIBUTIONS := client export analysis server benchmarks
# The environment remembers: another target would put onnxruntime over onnxruntime-gpu.
GPU ?= $(if $(wildcard $(VENV)/installed-gpu),1)
ON_GPU := $(filter 1,$(GPU))
ifneq ($(and $(ON_GPU),$(TORCH_INDEX_URL)),)
$(error GPU=1 takes torch with CUDA from pip's own index: leave TORCH_INDEX_URL out)
endif
INSTALLED := $(VENV)/installed$(if $(ON_GPU),-gpu)
# Modules are compiled afterwards, by all cores: pip does it by one, which takes longer than the rest.
INSTALL = $(BIN)/python -m pip install --no-compile --disable-pip-version-check -c constraints.txt
# A test often waits for a process to start: two workers more than CI's two cores.
TEST_WORKERS ?= 4
TEST_FLAGS ?=
# What is left out is compiled when it is used; some files are templates, or of another Python.
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x 'transformers/models/|/tests?/|/testing/|/pip/|torch/_inductor/|networkx/|sympy/(physics|integrals|stats)/' $(VENV)/lib || true
PYTEST = $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

DEMO := build/demo/published
ifndef REPOSITORY
CHECKPOINT ?= $(DEMO)/ctclip_demo.pt
TEXT_MODEL ?= $(DEMO)/text_model
endif
REPOSITORY ?= $(DEMO)/model_repository
CHECKPOINT ?=
TEXT_MODEL ?=
URL ?=
RESULTS ?= benchmarks/results
BENCH_FLAGS ?=
PARITY_FLAGS ?=
REFERENCE = $(if $(CHECKPOINT),--against $(CHECKPOINT)) $(if $(TEXT_MODEL),--text-model $(TEXT_MODEL))
INPUTS = --repository $(REPOSITORY) $(REFERENCE) $(if $(URL),--url $(URL)) --out $(RESULTS)

.DEFAULT_GOAL := help
.PHONY: help environment demo demo-small bench gpu-check gpu-bench test test-slow test-no-vnni lint format types clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "Variables, such as TORCH_INDEX_URL to avoid CUDA, are explained at the head of the Makefile."

environment: $(INSTALLED) ## Make .venv with everything in it

$(INSTALLED): constraints.txt tests/requirements.txt $(DISTRIBUTIONS:%=%/pyproject.toml) \
		$(if $(ON_GPU),scripts/gpu-requirements.txt scripts/gpu-packages.sh)
	@sh scripts/check-machine.sh "$(PYTHON)" $(if $(ON_GPU),gpu)
	@if test -x $(BIN)/python; then echo "Bringing $(VENV) up to date"; else \
		echo "Making $(VENV), once: about 0.6 GB of packages, which takes some minutes"; \
		$(if $(TORCH_INDEX_URL)$(ON_GPU),,echo "  and several GB of CUDA libraries with torch; without a GPU, avoid these:"; \
		echo "  TORCH_INDEX_URL=$(CPU_TORCH)";) fi
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/installed $(VENV)/installed-gpu
	@touch -t 197001020000 $@ # begun: not up to date until all is done, but which of the two is known
	@$(if $(ON_GPU),,if ls -d $(VENV)/lib/python*/site-packages/onnxruntime_gpu-* >/dev/null 2>&1; then \
		$(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu; fi)
	@$(INSTALL) $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) torch hatchling editables \
		$(if $(ON_GPU),-c scripts/gpu-requirements.txt)
	@$(COMPILE) & $(INSTALL) --no-build-isolation -r tests/requirements.txt -e "./client[all]" \
		$(patsubst %,-e ./%,$(filter-out client,$(DISTRIBUTIONS))) && wait
	@$(if $(ON_GPU),sh scripts/gpu-packages.sh $(BIN)/python)
	@$(COMPILE)
	@touch $@

demo: $(INSTALLED) ## A real CT through a real Triton at the published geometry (two minutes once installed)
	@$(BIN)/ctclip demo

demo-small: $(INSTALLED) ## The same at a small geometry (under a minute)
	@$(BIN)/ctclip demo --small

bench: $(INSTALLED) ## Latency and throughput of the demo's server (or REPOSITORY=, URL=)
	@$(BIN)/ctclip bench $(INPUTS) $(BENCH_FLAGS)

gpu-check: $(INSTALLED) ## Build TensorRT engines, run the parity check with them
	@$(BIN)/ctclip bench gpu check $(INPUTS) $(if $(PARITY_FLAGS),--flags $(PARITY_FLAGS))

gpu-bench: $(INSTALLED) ## Serve the engines in the official container, measure
	@$(BIN)/ctclip bench gpu serve $(INPUTS) $(if $(BENCH_FLAGS),--flags $(BENCH_FLAGS))

# More threads would only wait for each other: the models of these tests are small.
test: $(INSTALLED) ## Run the tests
	@OMP_NUM_THREADS=1 $(PYTEST) -m "not slow and not gpu and not weights" $(TEST_FLAGS)

test-slow: $(INSTALLED) ## Run the tests at the published geometry, too
	@$(PYTEST) -m "not gpu and not weights" $(TEST_FLAGS)

test-no-vnni: $(INSTALLED) ## The int8 tests on an emulated CPU with AVX2 only (qemu-user; minutes)
	@qemu-x86_64 -cpu Haswell $(BIN)/python -m pytest tests/export/test_int8.py $(TEST_FLAGS)

lint: $(INSTALLED) ## Check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(INSTALLED) ## Check types, of the client on Windows and macOS, too
	@$(BIN)/mypy
	@for system in win32 darwin; do $(BIN)/mypy --platform $$system -p ctclip_client \
		--cache-dir .mypy_cache/$$system || exit; done

format: $(INSTALLED) ## Format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: ## Remove what was built; the environment stays
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
