# Every target sets itself up; the second run only compares the locks with a stamp.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.locked
BROWSERS := $(VENV)/.browsers
ARGS ?=
# Demo and tests start hundreds of processes; where an environment forbids it, each would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

$(STAMP): requirements/dev.txt requirements/bootstrap.txt pyproject.toml .ci/setup
	@PYTHON=$(PYTHON) VENV=$(VENV) bash .ci/setup

$(BROWSERS): .ci/setup-browsers requirements/node.txt | $(STAMP)
	@VENV=$(VENV) bash .ci/setup-browsers

setup: $(STAMP) ## the virtual environment with every locked dependency

demo: $(STAMP) ## a shop of 20 shoppers with every real part; ARGS="--seconds 30 --seed 7 --json out.json --chaos"
	@$(BIN)/footfall-sim demo $(ARGS)

test: $(STAMP) $(BROWSERS) ## import contracts, then every test (ARGS go to pytest)
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/pytest -n 3 --dist loadgroup $(ARGS)

$(VENV)/bench/.locked: requirements/bench.txt | $(STAMP)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/bench
	@$(BIN)/uv pip sync --quiet --python $(VENV)/bench/bin/python --require-hashes requirements/bench.txt
	@touch $@

bench-decode: $(VENV)/bench/.locked ## decoding side by side with beacontools and bleparser, and the callback path
	@PYTHONPATH=. $(VENV)/bench/bin/python benchmarks/bench_decode.py $(ARGS)

bench-ingest: $(VENV)/bench/.locked ## acceptance beside FastAPI + pydantic + SQLAlchemy, message ids, identities and the fold
	@PYTHONPATH=. $(VENV)/bench/bin/python benchmarks/bench_ingest.py $(ARGS)
	@PYTHONPATH=. $(BIN)/python benchmarks/bench_identity.py

bench-rfm: $(STAMP) ## scores of a million customers with five million orders, the journal taking events beside it
	@PYTHONPATH=. $(BIN)/python benchmarks/bench_rfm.py $(ARGS)

bench-storage: $(STAMP) ## SQLite beside PostgreSQL: transactions, queries, appends, the fold
	@PYTHONPATH=. $(BIN)/python benchmarks/bench_storage.py

bench-pipeline: $(STAMP) ## MQTT to the offer beside a plain consumer; ARGS="--quick --only accept fold --profile"
	@PYTHONPATH=. $(BIN)/python benchmarks/bench_pipeline.py $(ARGS)

test-faults: $(STAMP) ## 1,000 radio faults and 1,000 SIGKILLs of a gateway; eleven minutes
	@$(BIN)/python -m simulators.endurance faults $(ARGS)

test-density: $(STAMP) ## an hour of 1,000 beacons at 10 Hz, compressed; memory and CPU; ARGS="--real-time --seconds 600"
	@$(BIN)/python -m simulators.endurance density $(ARGS)

test-outage: $(STAMP) ## 72 hours without a backend, compressed; what the outbox keeps and writes
	@$(BIN)/python -m simulators.endurance outage $(ARGS)

test-fuzz: $(STAMP) ## ten million hostile payloads at every door; ARGS="--seed 7"
	@$(BIN)/python -m simulators.endurance fuzz $(ARGS)

test-races: $(STAMP) ## 100,000 purchases and refusals against as many pushes; RACES=1000 SEED=7
	@RACES=$(or $(RACES),100000) SEED=$(or $(SEED),$$RANDOM) $(BIN)/pytest -q -s --show-capture=no \
	  tests/backend/test_campaign_races.py $(ARGS)

test-chaos: $(STAMP) ## replicas, broker and PostgreSQL killed under load while FCM fails; SECONDS=60 SEED=7
	@$(BIN)/python -m simulators.endurance chaos $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(SEED),--seed $(SEED)) $(ARGS)

test-api: $(STAMP) ## requests generated from the OpenAPI document for ten minutes; SECONDS=60 SEED=7
	@API_SECONDS=$(or $(SECONDS),600) API_SEED=$(or $(SEED),$$RANDOM) $(BIN)/pytest -q -s --show-capture=no \
	  tests/backend/test_api_generated.py tests/backend/test_hostile_bodies.py $(ARGS)

docs: $(STAMP) ## writes docs/calls.md afresh from the code
	@$(BIN)/footfall-backend openapi --calls > docs/calls.md

check: $(STAMP) ## formatting, lint, strict types
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

format: $(STAMP) ## let ruff put the formatting right
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: $(STAMP) ## resolve the dependencies afresh into requirements/ (hashes, no addresses)
	@bash .ci/lock

.PHONY: help setup demo test test-faults test-density test-outage test-fuzz test-races test-chaos test-api bench-decode bench-pipeline bench-ingest bench-rfm bench-storage docs check format lock
