# Two commands do everything: `make demo` shows the product, `make test` proves it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format reference lock bench soak compose-test clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## .venv with everything, from requirements.lock (hashes checked)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup ## the whole story on this machine, in under a minute
	$(BIN)/nsm demo

test: check ## everything CI runs: check, then all tests
	$(BIN)/python -m pytest -n 3 --dist loadgroup --ignore tests/manifests

check: setup ## format, lint, types, import laws, written pages, manifests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.reference --check
	$(BIN)/python -m pytest -q tests/manifests

format: setup ## let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

reference: setup ## docs/reference written anew from the code
	$(BIN)/python -m tools.reference

lock: ## the locks anew from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra dev \
	  --no-header --no-annotate --no-emit-index-url --upgrade -o requirements.lock pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url -c requirements.lock -o requirements-runtime.lock pyproject.toml
	printf 'hatchling\neditables\n' | uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url -c requirements.lock -o requirements-build.lock -

bench: setup ## how fast, beside a peer or a floor in the same run (see bench/README.md)
	$(BIN)/python -m bench.ipam --quick
	$(BIN)/python -m bench.watcher --quick
	$(BIN)/python -m bench.dns --quick
	$(BIN)/python -m bench.plumber --quick
	$(BIN)/python -m bench.e2e --quick

soak: setup ## what CI does a few times, many times: kills in bursts, random histories, chaos, cycles of connections
	NSM_SOAK=50 $(BIN)/python -m pytest -q -s tests/ipam/test_bursts.py -k killed
	NSM_SOAK=1 $(BIN)/python -m pytest -q tests/auth/test_service_refusals.py
	NSM_MACHINE_EXAMPLES=3000 $(BIN)/python -m pytest -q --timeout 7200 tests/ipam/test_machine.py
	$(BIN)/python -m tests.dns.fuzz 10000000
	NSM_SOAK=1 $(BIN)/python -m pytest -q tests/dns/test_answering_semantics.py
	NSM_CONNECTIONS=3000 $(BIN)/python -m pytest -q --timeout 1800 tests/plumber/test_service_many.py
	NSM_CHAOS=40 $(BIN)/python -m pytest -q -s tests/e2e/test_chaos.py
	NSM_CYCLES=10000 $(BIN)/python -m pytest -q --timeout 3600 tests/plumber/test_service_cycles.py

compose-test: ## compose brought up, the demo's checks run in it (needs a Docker engine)
	tools/compose-test.sh

clean: ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
