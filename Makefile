# `make demo` and `make test` each set a fresh machine up by themselves: they need python3, make and the package index.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/pyproject.installed

.PHONY: demo test test-slow test-faults lint env clean

demo: env
	$(PY) -m reference_pipelines demo --out runs/demo

test: lint
	$(PY) -m pytest

test-slow: env
	$(PY) -m pytest -m slow

# FAULTS=100 kills each program's run that many times as often as one.
test-faults: env
	$(PY) -m pytest -m faults

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# The stamp is written last, so an interrupted set-up starts over; it is a copy of pyproject.toml, so only a change
# of its content (never a touched file) installs again.
env:
	@if ! cmp -s pyproject.toml $(STAMP); then \
		echo "Setting up $(VENV) (a few minutes the first time)"; \
		$(PYTHON) -c 'import sys; sys.exit("attnreid needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None' && \
		{ $(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); } && \
		$(PY) -m pip install --disable-pip-version-check --progress-bar off -q -e '.[pipelines,dev]' && \
		cp pyproject.toml $(STAMP); \
	fi

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache
