# All that people and CI call. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help install simulate test check build wheel-test proto clean

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

check: install ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml

build: install ## build sdist and wheel into dist/
	rm -rf dist build
	$(BIN)/python -m build --quiet --no-isolation

wheel-test: build ## install the wheel in a new environment, away from the sources, and use it
	sh tests/wheel.sh dist/*.whl

proto: ## generate the *_pb2.py files anew (needs grpcio-tools==1.75.1)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. fedlearn/wire/payload.proto fedlearn/exchange/exchange.proto fedlearn/exchange/link.proto

clean: ## remove what can be made again
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
