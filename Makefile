# `make install` builds an environment of its own in .venv; every other target uses it.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip -qq --disable-pip-version-check
STAMP := $(VENV)/.installed
# Name an interpreter to override the search: make install PYTHON=/path/to/python3.12
PYTHON ?=
# That of an active environment comes first, then the oldest.
ACTIVE := $(if $(VIRTUAL_ENV)$(CONDA_PREFIX),python)

.DEFAULT_GOAL := help
.PHONY: help install demo app test test-all test-browser test-gpu test-oldest matrix lint pins format clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv and install the package with the tested versions of everything it needs.

# The interpreter is tried, not only looked up: a pyenv shim may stand for a version that is not there,
# and Debian ships python3 without the module that makes environments.
# mmcv-lite and mmcv fill the same folder, upstream's OpenMMLab and the onedl forks the same three: what is there stays.
$(STAMP): setup.py pyproject.toml constraints.txt
	@set -e; \
	if grep -qs '^uv = ' $(VENV)/pyvenv.cfg; then \
		echo '$(VENV) was made by uv: uv sync --inexact'; uv sync --inexact; touch $@; exit; \
	fi; \
	if ! $(PY) -c 'import pip' >/dev/null 2>&1; then \
		set -- $(if $(PYTHON),"$(PYTHON)",$(ACTIVE) python3.11 python3.12 python3.13 python3.14 python3 python); \
		for candidate in "$$@"; do \
			if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info)' \
					>/dev/null 2>&1; then python="$$candidate"; break; fi; \
		done; \
		if [ -z "$${python:-}" ]; then \
			echo 'make install: no Python 3.11 or later with the venv module found' \
				'(on Debian and Ubuntu: apt install python3-venv). Name one: make install PYTHON=/path/to/python3.11' >&2; \
			exit 1; \
		fi; \
		echo "[1/3] creating $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv --clear $(VENV); \
	else \
		echo '[1/3] using the existing $(VENV)'; \
	fi; \
	echo '[2/3] installing build tools'; \
	$(PIP) install -c constraints.txt setuptools wheel; \
	extras=openmmlab,lite,dev; \
	if $(PIP) show mmcv >/dev/null 2>&1; then extras=openmmlab,dev; fi; \
	if $(PIP) show onedl-mmengine >/dev/null 2>&1; then extras=onedl,dev; fi; \
	echo "[3/3] installing crack_plugin[$$extras] and its dependencies (torch is the large one: some minutes)"; \
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[$$extras]"; \
	touch $@; \
	echo 'done. Activate it with: source $(VENV)/bin/activate'

demo: install ## Train and test a tiny model on generated crack pictures, on the CPU, without any download.
	@$(PY) tools/demo.py

app: install ## The page to work in, with the embedded tiny model and example pictures, at http://127.0.0.1:7860.
	@$(PY) tools/app.py --examples 6

# A process for each core, and one thread in each, or they would get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile

test: lint ## Lint, type-check and run the fast tests.
	@$(PYTEST) -m 'not slow and not browser'

test-all: lint ## The same with the slow tests.
	@$(PYTEST) -m 'not browser'

# Debian's Chromium; CHROMIUM=/path/to/chrome names another. Nothing is downloaded but packages.
test-browser: install ## Run the tests of the page in a browser; installs Playwright, and Chromium where apt-get can.
	@if grep -qs '^uv = ' $(VENV)/pyvenv.cfg; then uv pip install -q --python $(PY) -c constraints.txt -e '.[browser]'; \
	else $(PIP) install -c constraints.txt -e '.[browser]' --no-build-isolation; fi
	@if [ -z "$${CHROMIUM:-}" ] && ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; \
	fi
	@if command -v npm >/dev/null; then npm install --silent --no-save --prefix $(VENV)/axe axe-core@4; fi
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m browser tests/app

test-gpu: install ## Run the tests that a CUDA GPU adds: forward, backward, compiling, mixed precision, prefix cache.
	@$(PY) -m pytest -m gpu

test-oldest: install ## Run the fast tests with the oldest versions that setup.py allows, in .venv-oldest.
	@$(PY) benchmarks/matrix.py oldest --no-demo --no-row

matrix: install ## Try every stack of OpenMMLab and versions, or STACK=onedl alone; rows of docs/stacks.md. Hours.
	@$(PY) benchmarks/matrix.py $(STACK)

lint: install ## Check style, formatting and types.
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

pins: ## Copy the pins of constraints.txt to pyproject.toml, for uv.
	@$(PY) benchmarks/pins.py

format: install ## Fix what ruff can fix, and format.
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean: ## Remove caches and build output (not environments, not work_dirs).
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
