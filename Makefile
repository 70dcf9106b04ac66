# What a fresh machine needs: Python 3.11 or later, make and git. `make help` lists the targets.

VENV := .venv
PYTHON = $(VENV)/bin/python
ARGS ?=
# Several test processes (tests/conftest.py), each with servers of its own; a file's tests stay together, and share what is slow to
# start. In the order of tests/conftest.py, not those files first that have many tests.
PARALLEL ?= -n auto --dist loadfile --no-loadscope-reorder

# Python keeps what it has compiled, also where the environment says otherwise: else every process compiles all of ours anew.
export PYTHONDONTWRITEBYTECODE =

# Compiled for every platform and Python from 3.11 on. Without header and annotations, so that no registry is named.
COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help run test lint soak crashes model format lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.installed-to-run  ## run everything on this machine; ARGS="--copies 2" for more relays and workers
	@$(VENV)/bin/payments up $(ARGS)

test: $(VENV)/.installed-to-test  ## all checks and tests, the same as CI; ARGS="tests/relay -k lane" for some of them
	@$(VENV)/bin/pytest $(PARALLEL) $(ARGS)

lint: $(VENV)/.installed-to-test  ## the linters alone
	@$(VENV)/bin/pytest tests/lint tests/test_tidy.py $(ARGS)

MINUTES ?= 2
soak: $(VENV)/.installed-to-test  ## random faults for MINUTES=2, then all books compared; ARGS="--seed 7" to replay a run
	@$(PYTHON) -m soak --minutes $(MINUTES) $(ARGS)

crashes: $(VENV)/.installed-to-test  ## every process killed at every commit and call (docs/crash-points.md); ARGS="--only POST" for some
	@$(PYTHON) -m crashes $(ARGS)

model: $(VENV)/.installed-to-test  ## every state of the formal model (docs/model.md); ARGS="--story no-fence" for how a fault goes wrong
	@$(PYTHON) -m model $(ARGS)

format: $(VENV)/.installed-to-test  ## set the Python code in its one form
	@$(VENV)/bin/ruff check --fix --quiet . ; $(VENV)/bin/ruff format .

lock: $(VENV)/.installed-to-test  ## resolve the dependencies anew and write both lock files
	@$(PYTHON) -m pip install --quiet uv
	$(COMPILE) --upgrade --group dev --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --group build --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml

clean:  ## remove the virtual environment and caches; the data in .payments stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Stamps: a second `make run` starts at once. Everything comes from the lock files, by hash; the project itself is
# installed in place, from this checkout.
$(VENV)/.installed-to-run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing what is needed to run (only after a change of requirements.lock) …"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-to-test: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing what is needed to test (only after a change of requirements-dev.lock) …"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(VENV)/bin/python:
	@for python in python3.11 python3.12 python3.13 python3.14 python3; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "error: Python 3.11 or later is needed; python3 is $$(python3 --version 2>&1 || true)." >&2; \
		echo "Install it, or put it on PATH as python3.11." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$found --version) …"; \
	$$found -m venv --clear $(VENV) || { \
		echo "error: $$found could not make a virtual environment." >&2; \
		echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
