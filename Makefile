# One command each: install, up, test, full, fuzz, check, format, bench, soak, simulate, chaos, pull-the-plug, attack, lock, wheel, sbom,
# audit-dependencies. Needs Python 3.11 or newer, make and git; the rest comes into .venv, pinned by hash. `make up ARGS="--simulate 50"`
# hands flags on to `fleetward up`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV ?= uv
BIN := .venv/bin
ARGS ?=
# How many processes run the tests; 0 for one (docs/testing.md).
WORKERS ?= auto
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := broker inventory managers edge_agent web fleetward tests benchmarks

.PHONY: install up test full fuzz check format bench simulate chaos pull-the-plug attack soak lock wheel sbom audit-dependencies clean
.DEFAULT_GOAL := install

install: .venv/installed

up: .venv/installed
	@exec $(BIN)/fleetward up $(ARGS)

# Real broker, real browser: the two that no wheel brings are installed by the system's package manager where that is allowed.
test: .venv/installed-dev
	@.ci/system-packages
	$(BIN)/python -m pytest -q -n $(WORKERS) --max-worker-restart 0 $(ARGS)

# What `make test` tries in samples, in the numbers that are promised: 1,000 incarnations, 10,000 attacks, 1,000 tampers (docs/testing.md).
full: .venv/installed-dev
	$(BIN)/python -m pytest -q --full -m sampled $(ARGS)

# Schemathesis as each role, four minutes a role, with another seed each time (docs/testing.md).
fuzz: .venv/installed-dev
	$(BIN)/python -m pytest -q -n 0 --full tests/web/test_fuzz.py $(ARGS)

check: .venv/installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/installed-dev
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.run $(or $(ARGS),--write)

# Two hours of steady change, 500 devices; samples, then a verdict on what grew.
soak: .venv/installed-dev
	@$(BIN)/python -m benchmarks.soak $(ARGS)

# A thousand simulated worlds, and every planted bug found (docs/simulation.md).
simulate: .venv/installed-dev
	$(BIN)/python -m tests.simulation --seeds 1000 --jobs $$(nproc) $(ARGS)
	$(BIN)/python -m tests.simulation.mutations

# A thousand simulated worlds, then a real installation: whatever can break is broken, healed, and what was promised is checked
# (docs/chaos.md). `make chaos ARGS="--help"` has the flags.
chaos: .venv/installed-dev
	@.ci/system-packages
	@$(BIN)/python -m tests.chaos $(ARGS)

# The demonstration: about a minute of it.
pull-the-plug: .venv/installed-dev
	@.ci/system-packages
	@$(BIN)/python -m tests.chaos --plug $(ARGS)

# The embedded broker under attack, in full size: about ten minutes (docs/broker.md).
attack: .venv/installed-dev
	@.ci/system-packages
	@$(BIN)/python -m tests.broker.attack $(ARGS)

# Both locks anew, to the newest releases that pyproject.toml allows. Needs uv.
lock:
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --extra server --extra build --upgrade --quiet \
	  --generate-hashes --no-emit-index-url --universal --python-version 3.11 --output-file requirements.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --extra dev --constraint requirements.lock --quiet \
	  --generate-hashes --no-emit-index-url --universal --python-version 3.11 --output-file requirements-dev.lock

# Builds of a commit give the same bytes wherever and whenever they are made (docs/supply-chain.md). Not for all targets: what pip installs
# with it set is compiled to files that Python checks against their source at each import.
wheel sbom: export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct 2>/dev/null || echo 1580601600)

# dist/fleetward-VERSION-py3-none-any.whl, and the digest that anybody else's build of this commit must have.
wheel: .venv/installed
	$(BIN)/python -m hatchling build --target wheel
	@cd dist && sha256sum fleetward-*.whl

# dist/fleetward.cdx.json: a CycloneDX bill of materials, from the lock.
sbom: .venv/installed-dev
	@.ci/sbom $(BIN)/python dist/fleetward.cdx.json
	@echo dist/fleetward.cdx.json

# Known vulnerabilities of what the locks pin. Needs the internet; says so where it can't check.
audit-dependencies: .venv/installed-dev
	@.ci/audit-dependencies $(BIN)/python

clean:
	rm -rf .venv build dist

.venv/bin/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv module is needed (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }

.venv/installed: requirements.lock pyproject.toml | .venv/bin/python
	@echo "installing into .venv (a minute or two, once)"
	@$(PIP) install --require-hashes --no-deps -r requirements.lock
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	@echo "installing what tests and checks need into .venv"
	@$(PIP) install --require-hashes --no-deps -r requirements-dev.lock
	@touch $@
