# make demo: all set-up, then two sample photos are matched and drawn.
# make test: all set-up, then the tests, in a process of each core (to 4), but
#   for those that are slow by nature; make test-all: these too.
# make docs: the reference and the guides as pages, build/docs/index.html.
# All need only Python 3.11 to 3.13, git, make and pip's usual connection.

VENV ?= .venv
OUT ?= demo_output
ARGS ?=
BIN := $(VENV)/bin
PROTOS_VENV := $(VENV)-protos
PACKAGE := pyproject.toml setup.py

# The first of these that is a Python that TensorFlow supports.
PYTHONS := $(PYTHON) python3.12 python3.13 python3.11 python3
FIND_PYTHON := for p in $(PYTHONS); do \
    $$p -c 'import sys, ensurepip, venv; \
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
      >/dev/null 2>&1 && { echo $$p; exit 0; }; \
  done

# Those that the wheel is tried on: all that are there, unless named.
WHEEL_PYTHONS ?= $(shell for p in python3.11 python3.12 python3.13; do \
    $$p -c 'import ensurepip, venv' >/dev/null 2>&1 && echo $$p; done)

.PHONY: demo test test-all check docs bench wheel wheel-test protos format clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/delf demo --out $(OUT)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: $(VENV)/.installed-dev $(PROTOS_VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(PROTOS_VENV)/bin/python tools/protos.py --check

# Pages of the reference and the guides: build/docs/index.html.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs \
	  -d build/doctrees . build/docs

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build

wheel-test: $(VENV)/.installed-dev
	@test -n "$(WHEEL_PYTHONS)" || { \
	  echo "Expected python3.11, python3.12 or python3.13, found none;" \
	    "name some: make wheel-test WHEEL_PYTHONS=/path/to/python3" >&2; \
	  exit 1; }
	DELF_WHEEL_TEST_PYTHONS="$(WHEEL_PYTHONS)" \
	  $(BIN)/python -m pytest -s tests/wheel_test.py $(ARGS)

protos: $(PROTOS_VENV)/.installed
	$(PROTOS_VENV)/bin/python tools/protos.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(PROTOS_VENV) build dist delf.egg-info $(OUT)

# Environments. The stamps make a second run quick; a change of the package's
# dependencies installs again.
$(VENV)/.created:
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then \
	  echo "delf needs Python 3.11 to 3.13 with its venv module;" \
	    "none of these is one: $(PYTHONS)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$python ($$($$python --version))"; \
	$$python -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(PACKAGE)
	@echo "Installing delf into $(VENV): a few minutes the first time"
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

# Apart from the rest: the generator holds protobuf back.
$(PROTOS_VENV)/.installed: $(VENV)/.created tools/protos.txt
	$(BIN)/python -m venv $(PROTOS_VENV)
	$(PROTOS_VENV)/bin/python -m pip install --quiet -r tools/protos.txt
	@touch $@
