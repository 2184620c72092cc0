# Everything a contributor runs. `make help` explains each target.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(HOME)/.cache/mlxmesh/tools
PYTEST := $(BIN)/python -m pytest
# Three on two cores: most tests wait more than they compute. tests/conftest.py says who runs what.
WORKERS := -n 3

.DEFAULT_GOAL := help
.PHONY: help setup protos constraints docs format lint check test test-rest retest test-all coverage console console-check tools collector prometheus consul consul-agent models demo pictures console-pictures up down chaos soak scale fuzz bench bench-peers bench-pictures clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Make .venv with everything pinned by hash (nothing to do when up to date)

$(VENV)/.ready: pyproject.toml constraints/all.txt constraints/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("mlxmesh needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r constraints/bootstrap.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r constraints/all.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

protos: protos/gen/.generated ## Generate the typed Python stubs from protos/

protos/gen/.generated: $(VENV)/.ready $(shell find protos/mlxmesh) deploy/tools/generate_protos.py
	$(BIN)/python deploy/tools/generate_protos.py
	@touch $@

PIN := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links

constraints: $(VENV)/.ready ## Pin again after a change of dependencies in pyproject.toml
	$(PIN) pyproject.toml --extra all --extra vision --extra dev --output-file constraints/all.txt
	echo uv | $(PIN) - --no-annotate --output-file constraints/bootstrap.txt

docs: protos ## Generate docs/api.md, docs/modules.md and docs/images/architecture.svg
	$(BIN)/python deploy/tools/generate_docs.py
	$(BIN)/python deploy/tools/draw_architecture.py

models: protos ## Examine every architecture of mlx-lm and write docs/models.md
	$(BIN)/python -m tests.matrix

format: setup ## Format the code and the contracts, and fix what ruff can fix
	$(BIN)/buf format --write
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lint: protos ## Check contracts, style, types and layering
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python deploy/tools/generate_docs.py --check
	$(BIN)/python deploy/tools/draw_architecture.py --check

check: lint ## Lint, contracts against their baseline, unit tests
	deploy/tools/buf-breaking
	$(PYTEST) tests/unit

test: protos ## Every test that needs only Python (unit, contract, integration, end to end)
	$(PYTEST) $(WORKERS) -o faulthandler_timeout=400

retest: $(VENV)/.ready ## Repeat the few tests that failed in the last run, one at a time
	$(BIN)/python deploy/tools/repeat-failed

console: protos ## Build the console into the gateway (nothing to do when up to date)
	$(BIN)/python deploy/tools/build_console.py

console-check: protos ## Check the console's types, and run its unit tests
	$(BIN)/python deploy/tools/build_console.py check

tools: collector prometheus ## Build the tools that `make test-rest` needs (Go, Node, Maven and Rust must be there)
	deploy/tools/fetch-tools $(TOOLS)

collector: ## Build an OpenTelemetry collector for `make test-rest` (Go must be there)
	deploy/tools/build-collector $(TOOLS)

prometheus: ## Put Prometheus where `make test-rest` finds it, unless it is installed (Debian)
	deploy/tools/fetch-prometheus $(TOOLS)

consul: ## Build a Consul agent for `make test-rest` and `make consul-agent` (Go must be there)
	deploy/tools/build-consul $(TOOLS)

consul-agent: consul ## Run a Consul agent for development in the foreground (Ctrl-C stops it)
	$(TOOLS)/consul agent -dev

ifneq ($(wildcard $(TOOLS)/consul),)
test-rest retest test-all coverage chaos: export CONSUL_BIN := $(TOOLS)/consul
endif
test-rest retest test-all coverage: export PATH := $(TOOLS):$(PATH)
# The markers that `make test` leaves out.
REST := tools or chaos or console or matrix or real or schemas
test-rest: protos tools console console-check ## The tests that `make test` leaves out: other languages, Consul, architectures, short chaos
	$(PYTEST) $(WORKERS) -m "$(REST)" --durations 10

test-all: protos tools console console-check ## Every test: `make test` and `make test-rest` in one run
	$(PYTEST) -m "" $(WORKERS) --durations 10

coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: protos tools console ## Every test again, and which lines none of them ran, in child processes too
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "" $(WORKERS); passed=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report; exit $$passed

demo: protos ## Start a mesh, stream one answer, stop everything (MODEL=smollm2: a real model, 93 MB; GROUP=2: in two ranks)
	$(BUILD_CONSOLE)
	$(BIN)/python -m mlxmesh_launcher.demo $(MODEL) $(if $(GROUP),--group $(GROUP))

pictures: protos ## Take docs/images/top.svg and trace.svg from a running mesh
	$(BIN)/python docs/images/pictures.py

console-pictures: console ## Take docs/images/console-*.png from a running mesh (Chromium must be there)
	$(BIN)/python docs/images/console.py

# A mesh does not wait for its console: the gateway serves it as soon as it is there.
BUILD_CONSOLE = -@$(BIN)/python deploy/tools/build_console.py --in-background

up: protos ## Start the mesh in the foreground (Ctrl-C stops it); REGISTRY=consul for Consul
	$(BUILD_CONSOLE)
	$(BIN)/mlxmesh up $(if $(REGISTRY),--registry $(REGISTRY))

down: $(VENV)/.ready ## Stop the mesh
	$(BIN)/mlxmesh down

fuzz: protos ## Fuzz what reads bytes from outside, 60 s for each target (FUZZ="--seconds 600 wire")
	$(BIN)/python -m tests.chaos.fuzz $(FUZZ)

# The curves of the peers are drawn too where `make bench-peers` left its figures.
bench: protos ## Measure the mesh, say which targets are met, draw the curves (BENCH="--only 1,4 --rounds 3")
	$(BIN)/python -m tests.bench --json build/bench.json --picture build/benchmarks.svg \
		$(addprefix --peers ,$(wildcard build/bench-peers.json)) $(BENCH)

bench-peers: protos ## Install the peers apart, build llama.cpp, print tokens/s of each beside the mesh (BENCH=...)
	$(BIN)/python -m tests.bench.bench_peers --json build/bench-peers.json \
		--picture build/peers.svg $(BENCH)
	$(BIN)/python -m tests.bench.bench_llama_cpp --json build/bench-llama-cpp.json

bench-pictures: ## Put the curves that `make bench` and `make bench-peers` drew into docs/images
	cp $(wildcard build/benchmarks.svg build/peers.svg) docs/images/

chaos: protos ## Break a mesh in every way it should survive, half an hour (CHAOS="--only engine-kill --count 5")
	$(BIN)/python -m tests.chaos --json build/chaos.json $(CHAOS)

soak: protos ## Load a mesh for two hours with faults, and look for what grows (SOAK="--minutes 15")
	$(BIN)/python -m tests.soak --lines build/soak.jsonl --json build/soak.json --picture build/soak.svg $(SOAK)

scale: protos consul ## Measure up to 1,000 simulated engines on a real Consul, five minutes (SCALE="--engines 50 200")
	$(BIN)/python -m tests.scale --json build/scale.json --picture build/scale.svg $(SCALE)

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) protos/gen build dist .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
