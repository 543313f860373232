# The verbs of development. Runs on GNU make 3.81, which macOS has, and is safe under -j.
# The .venv is made once; its stamps say which requirements files it was filled from.

PYTHON ?= python3
# Set on the command line only (`make run PORT=8080`): some shells export a HOST of their own.
BATCHERS = 1
HOST = 127.0.0.1
PORT = 8000
MODEL =
ARGS =

VENV := .venv
BIN := $(VENV)/bin
MODELS := $(MODEL) $(foreach name,$(filter MICROBATCH_MODEL MICROBATCH_%__MODEL,$(.VARIABLES)),$($(name)))
ONNX := $(if $(filter efficientnet-lite0 onnx:%,$(MODELS)),$(VENV)/.onnx)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install run test test-long test-peers check format coverage chaos screenshots bench bench-full bench-seed bench-growth bench-peers clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/.runtime ## make .venv with what runs the service

# exec: make passes SIGTERM on to its direct child only, which must be the runner and not a shell.
run: $(VENV)/.runtime $(ONNX) ## run Redis, batchers and api: [MODEL=efficientnet-lite0] [BATCHERS=2] [PORT=8080] [HOST=0.0.0.0]
	@$(if $(MODEL),MICROBATCH_MODEL='$(MODEL)') exec $(BIN)/python -m tools.run --batchers $(BATCHERS) --host $(HOST) --port $(PORT)

test: $(VENV)/.dev ## run the tests: [ARGS="-k guard"]
	@exec $(BIN)/python -m pytest $(ARGS)

test-long: $(VENV)/.dev ## run what `make test` leaves out, bounded chaos and other slow tests: some 15 minutes
	@exec $(BIN)/python -m pytest -m '(long or chaos) and not peer' $(ARGS)

test-peers: $(VENV)/.dev ## run the tests against what others wrote: model servers, and Prometheus where it is installed
	@exec $(BIN)/python -m pytest -m peer -ra tests/peers $(ARGS)

check: $(VENV)/.dev ## look for what ruff and mypy object to
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "run make format"; exit 1; }
	@$(BIN)/mypy

format: $(VENV)/.dev ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --quiet --fix .

coverage: $(VENV)/.dev ## run the tests and show which lines they miss, child processes included
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --show-missing --skip-covered

chaos: $(VENV)/.dev ## kill, stall and corrupt real parts for an hour or more: [SEED=1] [ARGS="-k random"]
	@CHAOS=long exec $(BIN)/python -m pytest -m chaos -p no:cacheprovider -o faulthandler_timeout=0 -ra $(ARGS)

screenshots: $(VENV)/.dev ## take the pictures of the page anew, a minute and a half
	@exec $(BIN)/python -m tests.screenshots

bench: $(VENV)/.bench ## measure beside the floor of FastAPI and a bare loop, about two minutes
	@exec $(BIN)/python -m bench.run $(ARGS)

bench-full: $(VENV)/.bench ## the same with more loads and models, some ten minutes: [ARGS=--readme]
	@exec $(BIN)/python -m bench.run --full $(ARGS)

bench-seed: $(VENV)/.runtime ## measure the founding table: [ARGS=--markdown], about two minutes
	@exec $(BIN)/python -m bench.seed $(ARGS)

bench-growth: $(VENV)/.bench ## measure how the cost grows with jobs, payloads, batches and processes, six minutes
	@exec $(BIN)/python -m bench.growth $(ARGS)

bench-peers: $(VENV)/.bench ## measure beside other servers, each in an environment of its own, some 15 minutes: [ARGS=--readme]
	@exec $(BIN)/python -m bench.peers.run $(ARGS)

clean: ## delete all that make has made, .venv included
	@rm -rf $(VENV) .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv without pip is one whose making was interrupted.
$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
		"Python 3.11 or later is needed, $(PYTHON) is %d.%d: make PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt | $(BIN)/pip
	@echo "installing requirements.txt into $(VENV)"
	@$(PIP) -r requirements.txt
	@touch $@

# One after the other: two pips at once would get in each other's way.
$(VENV)/.bench: requirements-bench.txt $(VENV)/.runtime
	@echo "installing requirements-bench.txt into $(VENV)"
	@$(PIP) -r requirements-bench.txt
	@touch $@

$(VENV)/.onnx: requirements-onnx.txt $(VENV)/.runtime
	@echo "installing requirements-onnx.txt into $(VENV)"
	@$(PIP) -r requirements-onnx.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-onnx.txt requirements-otel.txt $(VENV)/.bench
	@echo "installing requirements-dev.txt into $(VENV)"
	@$(PIP) -r requirements-dev.txt
	@touch $@
