# All that people and CI call. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EDGE ?= $(HOME)/.cache/fedlearn-edge
PYTHONS ?= python3.10 python3.13
TIER ?= ci
OUT ?= build/sweep
FLOWERS ?= 1.38.0 1.42.0
export OMP_NUM_THREADS ?= 1

.PHONY: help install simulate test nightly flower-versions reproduce sweep answers worlds check build wheel-test edge-test edge-pythons proto clean

help: ## list these commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.ready ## make .venv with pinned versions of everything

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("fedlearn needs Python 3.11 or newer for simulation; try: make PYTHON=python3.12 " + sys.argv[1]) if sys.version_info < (3, 11) else None' "$(MAKECMDGOALS)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

simulate: install ## run the embedded default: a CNN over 100 clients
	$(BIN)/python -m fedlearn.simulate

test: install ## run the tests
	$(BIN)/python -m pytest -n 2

nightly: install ## run the tests that take minutes each
	$(BIN)/python -m pytest -m nightly

flower-versions: install ## run the apps' tests with the lowest and the newest flwr (FLOWERS="1.38.0 1.42.0")
	for version in $(FLOWERS); do at=$(CURDIR)/build/flwr-$$version; test -d $$at || $(BIN)/python -m pip install -q --no-deps --target $$at flwr==$$version || exit 1; \
	PYTHONPATH=$$at $(BIN)/python -m pytest tests/apps tests/template tests/strategies tests/runs || exit 1; done

reproduce: install ## run the claims of a tier (TIER=ci, nightly, release); data sets are fetched once
	$(BIN)/fedlearn reproduce --tier $(TIER) --jobs 2 --fetch

sweep: install ## let every file call of short runs go wrong, one at a time (an hour on two cores)
	$(BIN)/python -m tests.system.sweep $(OUT)

answers: install ## let clients tell 100,000 well-formed lies; none may end a run (most of an hour on one core)
	$(BIN)/python -m tests.wire.answers --count 100000

worlds: install ## let rollouts live through 100,000 simulated worlds (half an hour on two cores)
	$(BIN)/python -m tests.server.rollout_seeds 100000

check: install ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml deploy/infer.yaml

build: install ## build sdist and wheel into dist/
	rm -rf dist build
	$(BIN)/python -m build --quiet --no-isolation

wheel-test: build ## install the wheel in a new environment, away from the sources, and use it
	sh tests/wheel.sh dist/*.whl

edge-test: install ## the agent on emulated aarch64 binaries (downloads 280 MB once)
	FEDLEARN_EDGE=$(EDGE) $(BIN)/python -m pytest tests/edge -s

edge-pythons: build ## the agent in clean environments of other PYTHONS, with torch (gigabytes of CUDA on x86)
	rm -rf $(EDGE)-pythons
	for python in $(PYTHONS); do $$python -m venv $(EDGE)-pythons/$$python && $(EDGE)-pythons/$$python/bin/pip install -q dist/*.whl torch || exit 1; done
	FEDLEARN_PYTHONS=$$(for python in $(PYTHONS); do printf '%s:' $(EDGE)-pythons/$$python/bin/python; done) $(BIN)/python -m pytest tests/edge/test_pythons.py -s

proto: ## generate the *_pb2.py files anew (needs grpcio-tools==1.75.1)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. fedlearn/wire/payload.proto fedlearn/exchange/exchange.proto fedlearn/exchange/link.proto fedlearn/exchange/inference.proto

clean: ## remove what can be made again
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
