# make demo   see it work            make test    run every test
# make help   the other targets

# The first Python here that is new enough and can make an environment.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
  $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
  && { echo $$python; break; }; done)
SHELL := bash
# What was compiled once is not compiled by every worker, and by every command that tests start.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# Tests mostly wait for processes and sockets: more of them at once than there are cores.
JOBS ?= 4
OTLP ?=
DATA ?=
BACKEND ?= prometheus
LOCAL ?=
N ?= 50
OUTBOX ?= sqlite
INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check
COMPILE = $(BIN)/uv pip compile pyproject.toml --python-version 3.11 --universal --generate-hashes \
  --extra otlp --extra socks --extra demo --group build --no-emit-index-url --no-emit-find-links \
  --no-header --no-annotate --upgrade -q

.DEFAULT_GOAL := help
.PHONY: help demo test lint types imports docs format test-kill test-fuzz test-newest test-lowest components mutants test-stack test-compose stack benchmarks build clean lock hosts

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(if $(PYTHON),,echo 'Python 3.11 or newer with its venv module is needed; if it has another name, set PYTHON=that' >&2; exit 1)
	$(PYTHON) -m venv $(VENV)

$(VENV)/tests.stamp: requirements/tests.txt pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --require-hashes -r requirements/tests.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/lint.stamp: requirements/lint.txt $(VENV)/tests.stamp
	$(INSTALL) --require-hashes -r requirements/lint.txt
	@touch $@

$(VENV)/docs.stamp: requirements/docs.txt $(VENV)/tests.stamp
	$(INSTALL) --require-hashes -r requirements/docs.txt
	@touch $@

demo: $(VENV)/tests.stamp ## Real migrations, webhooks, their trace, metrics and logs, on this machine
	@$(BIN)/confiture webhooks demo $(if $(OTLP),--otlp $(OTLP))

test: $(VENV)/tests.stamp ## Every test that needs no more than this machine
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(PYTEST_ARGS) tests --ignore=tests/stack

test-kill: $(VENV)/tests.stamp ## SIGKILL at N random instants (OUTBOX=sqlite|postgres): lost, invented, duplicated
	@$(BIN)/python tests/kill/siege.py --kills $(N) --outbox $(OUTBOX)

test-fuzz: $(VENV)/tests.stamp ## Each property N times (N=10000)
	EXAMPLES=$(if $(filter-out 50,$(N)),$(N),10000) $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal --timeout 3600 $(PYTEST_ARGS) tests/properties

test-newest: $(VENV)/tests.stamp ## Unit, contract and acceptance tests on the newest Confiture (Python 3.14)
	@$(BIN)/python scripts/test_newest.py

test-lowest: $(VENV)/tests.stamp ## The main path on the lowest versions that are allowed, and on PostgreSQL 15
	@PYTHON=$(BIN)/python sh scripts/test_lowest.sh

components: ## Debian's PgBouncer, libfaketime and PostgreSQL, for the tests that use them
	@sh scripts/components.sh

mutants: $(VENV)/tests.stamp ## Plant twenty faults and name the tests that catch each (ONLY=lease,gone)
	@$(BIN)/python scripts/mutants.py $(if $(ONLY),--only $(ONLY))

test-stack: $(VENV)/tests.stamp ## The live test of the observability stack (needs Go; six minutes cold)
	-@$(BIN)/python observability/native/stack.py --build-only --checkers
	$(BIN)/python -m pytest -q -rs $(PYTEST_ARGS) tests/stack

test-compose: $(VENV)/tests.stamp ## docker-compose.yml, brought up by a Docker engine (says so where there is none; LOCAL=1 pulls no image)
	@$(BIN)/python observability/native/containers.py $(if $(LOCAL),--local)

stack: $(VENV)/tests.stamp ## The real collector, Jaeger, Prometheus and VictoriaLogs on loopback (needs Go; BACKEND=prometheus|prometheus-3.5|victoriametrics, DATA=folder keeps what they store)
	@$(BIN)/python observability/native/stack.py --backend $(BACKEND) $(if $(DATA),--data $(DATA))

lint: $(VENV)/lint.stamp hosts ## ruff, and no committed file names an index or this machine
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

hosts: $(VENV)/tests.stamp
	@$(BIN)/python scripts/check_hosts.py

types: $(VENV)/lint.stamp ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/lint.stamp ## The layers: a file imports only from files above it
	$(BIN)/lint-imports

docs: $(VENV)/docs.stamp ## The documentation as a site, built strictly into build/site
	@for page in commands_page reference_tables python_page survived_page map_page; do $(BIN)/python scripts/$$page.py --check || exit; done
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/lint.stamp ## Format the code
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .

benchmarks: $(VENV)/tests.stamp ## Speed against the alternative, as ratios, into docs/benchmarks.md
	@mkdir -p build && rm -f build/benchmarks.txt
	@cd benchmarks && set -o pipefail && for file in start_up transaction all_dead hooks many deliver signals stored worker_memory postgres_outbox; do \
	  ../$(BIN)/python $$file.py | tee -a ../build/benchmarks.txt || exit 1; done
	@$(BIN)/python scripts/benchmarks_page.py build/benchmarks.txt

build: $(VENV)/tests.stamp ## dist/: wheel and sdist, reproducible, checked and tried in an empty environment; its SBOM
	@PYTHON=$(BIN)/python sh scripts/build.sh

lock: $(VENV)/bin/python ## Renew the hashed requirements
	$(INSTALL) uv
	export UV_DEFAULT_INDEX="$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)"; \
	[ -n "$$UV_DEFAULT_INDEX" ] || unset UV_DEFAULT_INDEX; \
	$(COMPILE) --group tests --group lint -o requirements/lint.txt && \
	$(COMPILE) --group tests -c requirements/lint.txt -o requirements/tests.txt && \
	$(COMPILE) --group docs -c requirements/lint.txt -o requirements/docs.txt && \
	$(COMPILE) --group lowest --resolution lowest-direct --no-strip-extras -o requirements/lowest.txt && \
	$(BIN)/uv pip compile --group publish --python-version 3.11 --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --upgrade -q -o requirements/publish.txt

clean: ## Remove what these targets made
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
