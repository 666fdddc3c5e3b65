# layerlab: everything that a fresh machine with Python >= 3.11 and make needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 20
ROUNDS ?= 50
SECONDS ?= 60
JOBS ?= 1
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
FUZZING := PYTHONPATH=tests/support:. $(BIN)/python -m fuzzing

.PHONY: help demo up compare test lab-check compose-test sim delay-attack dependency-audit crash-test abuse openapi fuzz fuzz-replay fuzz-seeds random-bytes bench bench-quick lint format clean

help: ## Show what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(RUN_STAMP) ## Tell the whole story: deposit, transfer, fraud, challenge, withdraw, escape
	$(BIN)/layerlab demo $(ARGS)

up: $(RUN_STAMP) ## Start a devnet that stays up until Ctrl-C
	$(BIN)/layerlab up $(ARGS)

compare: $(RUN_STAMP) ## Compare the models: one workload, every attack, a table and a page
	$(BIN)/layerlab compare --quick $(ARGS)

test: $(DEV_STAMP) ## Run all tests but the demo
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

lab-check: $(RUN_STAMP) ## Run two experiments with their controls; the commit chooses which (ARGS=COMMIT: another one's)
	$(BIN)/python .ci/experiments.py $(ARGS)

compose-test: $(DEV_STAMP) ## Test the containers on a real Docker Engine
	$(BIN)/pytest tests/compose --durations=8 $(ARGS)

sim: $(DEV_STAMP) ## Simulate the whole system under faults: SEEDS=20 (JOBS=2), or SEED=k alone (FAULTS=1,2 of it)
	PYTHONPATH=tests/support $(BIN)/python -m simulation --seeds $(SEEDS) --jobs $(JOBS) $(if $(SEED),--seed $(SEED)) \
	  $(if $(FAULTS),--faults $(FAULTS)) $(ARGS)

delay-attack: $(DEV_STAMP) ## 1 to 64 dishonest challengers in every style against the dispute game; writes docs/delay/ (ARGS="--k 1 4")
	PYTHONPATH=tests/support $(BIN)/python -m delay_report $(ARGS)

crash-test: $(DEV_STAMP) ## kill -9 services under load, break their disks: ROUNDS=50 (SEED=k)
	$(BIN)/pytest tests/crash
	PYTHONPATH=tests/support $(BIN)/python -m crashes --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

mutants: $(DEV_STAMP) ## Break our own code on purpose, each time a test must notice (ARGS="--only P7", "--write", "--help")
	PYTHONPATH=tests/support $(BIN)/python -m mutants $(ARGS)

abuse: $(DEV_STAMP) ## 2,000 transfers/s and every kind of junk at once: SECONDS=60 (SEED=k)
	PYTHONPATH=tests/support:. $(BIN)/python -m abuse --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

openapi: $(DEV_STAMP) ## Ask every running service whether its OpenAPI is true: EXAMPLES=200 per operation, SEED=7
	OPENAPI_EXAMPLES=$(or $(EXAMPLES),200) $(if $(SEED),OPENAPI_SEED=$(SEED)) $(BIN)/pytest tests/openapi -s $(ARGS)

fuzz: SECONDS = 10
fuzz: JOBS = 2
fuzz: $(DEV_STAMP) ## Fuzz every decoder and handler: SECONDS=10 for each (TARGET=one, JOBS=2, ARGS=--keep)
	@$(FUZZING) fuzz --seconds $(SECONDS) $(if $(TARGET),--target $(TARGET)) --jobs $(JOBS) $(ARGS)

fuzz-replay: $(DEV_STAMP) ## Run one input again: TARGET=batch FILE=fuzz-findings/...
	@$(FUZZING) replay $(TARGET) $(FILE)

fuzz-seeds: $(DEV_STAMP) ## Write anew the seeds in the corpus, after a format has changed
	@$(FUZZING) seeds

random-bytes: JOBS = 2
random-bytes: $(DEV_STAMP) ## COUNT=100000 random byte strings per decoder (TARGET=one): a typed error each, memory flat
	@$(FUZZING) random --count $(or $(COUNT),100000) --jobs $(JOBS) $(if $(TARGET),--target $(TARGET)) $(ARGS)

dependency-audit: $(DEV_STAMP) ## Ask osv.dev whether anything that layerlab is installed with is known to be vulnerable
	$(BIN)/python .ci/dependencies.py $(ARGS)

bench: $(RUN_STAMP) ## Measure every figure of docs/PERFORMANCE.md on running services (ARGS="--only NAME --repeat 3")
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(RUN_STAMP) ## Every benchmark in miniature: fails if one does not run, never on a timing
	$(BIN)/python -m benchmarks --quick $(ARGS)

lint: $(DEV_STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the virtual environment and caches (a devnet's data is left alone)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'layerlab needs Python 3.11 or newer: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(DEV_STAMP): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(RUN_STAMP)
