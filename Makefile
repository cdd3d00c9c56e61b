# `make demo` and `make test` each set a fresh machine up by themselves: they need python3, make and the package index.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/pyproject.toml
# uv unpacks the gigabytes of torch on all cores, in a quarter of pip's time.
get_uv = $(1) -m pip install --disable-pip-version-check --progress-bar off --no-compile -q uv
install = $(1) -m uv pip install -q --python $(1)
OLDEST := .venv-oldest
CORE := .venv-core
# One process a core; torch takes one thread in each (tests/conftest.py).
PYTEST := -m pytest -n auto --dist worksteal
# The suite starts many processes: each would compile all that it imports where byte code may not be kept.
export PYTHONDONTWRITEBYTECODE :=

PLAYGROUND := build/docs/playground

.PHONY: demo test suite test-slow test-zoo test-faults test-fuzz test-soak test-mutants test-oldest test-core test-docs lint dist env python clean protocol-kit docs playground notebooks

demo: env
	$(PY) -m reference_pipelines demo --out runs/demo

test: env
	$(MAKE) -s -j2 lint suite

suite: env
	$(PY) $(PYTEST)

test-slow: env
	$(PY) $(PYTEST) -m slow

# Every model family of timm and torchvision, about 20 minutes on two cores; writes docs/results/zoo.md.
test-zoo: env
	$(PY) -m tests.backbones.zoo --out docs/results/zoo.md

# FAULTS=100 kills each program's run that many times as often as one.
test-faults: env
	$(PY) -m pytest -m faults

# FUZZ=20000 generated arguments and as many damaged files; prints what came of them.
test-fuzz: env
	$(PY) $(PYTEST) -m fuzz tests/fuzz

# Whether tests notice 300 changes of the sources, one at a time: an hour or two on one core; the same command goes on.
test-mutants: env
	$(PY) -m tests.mutation --mutants 300 --seed 0 --out docs/results/mutants.md

# SOAK=200 epochs without labels, 1,000 times attached and removed, 10,000 calls of embed; prints what grew.
test-soak: env
	$(PY) -m pytest -m soak tests/soak

# The suite on the lowest release of every dependency that pyproject.toml allows and this Python has a wheel of.
test-oldest: python
	$(PYTHON) -m venv --clear $(OLDEST)
	$(call get_uv,$(OLDEST)/bin/python)
	$(OLDEST)/bin/uv pip compile -q --resolution lowest-direct --only-binary :all: --no-binary fightingcv-attention \
		--python $(OLDEST)/bin/python \
		--all-extras --no-annotate --no-header -o $(OLDEST)/versions.txt pyproject.toml
	$(call install,$(OLDEST)/bin/python) -r $(OLDEST)/versions.txt
	$(call install,$(OLDEST)/bin/python) --no-deps -e .
	$(OLDEST)/bin/python $(PYTEST)

# How other libraries score the same rankings: sets them up in .venv-peers and writes docs/results/protocol_kit.md.
# PEER=torchreid CASE='ties/*' runs one alone, or some cases, and prints the outcomes.
protocol-kit: env
	$(PY) -m tests.protocol_kit.compare $(if $(PEER),--peer '$(PEER)') $(if $(CASE),--case '$(CASE)')

# The library with nothing but its own three dependencies, and pytest.
test-core: python
	$(PYTHON) -m venv --clear $(CORE)
	$(call get_uv,$(CORE)/bin/python)
	$(call install,$(CORE)/bin/python) -e . pytest pytest-xdist
	$(CORE)/bin/python $(PYTEST) tests/test_core.py tests/test_pyramid.py tests/test_registry.py tests/layers

# What README, docs and docstrings show, run or parsed.
test-docs: env
	$(PY) $(PYTEST) tests/test_docs.py tests/test_docstrings.py

# The documentation as a site in build/docs; a warning is an error.
docs: env
	$(call install,$(PY)) -e '.[docs]'
	$(PY) -m sphinx -W --keep-going -j auto -q docs build/docs
	$(MAKE) -s playground

# The page in which a network runs; npm gives onnxruntime-web, once. What is there from the same sources stays.
playground: env
	$(PY) -m docs.playground --out $(PLAYGROUND) --home ../index.html

# Runs the notebooks and stores what they show.
notebooks: env
	$(call install,$(PY)) -e '.[docs]'
	$(PY) docs/notebooks/refresh.py

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# What a release uploads: dist/*.whl and dist/*.tar.gz.
dist: env
	rm -rf dist
	$(call install,$(PY)) build twine
	$(PY) -m build
	$(PY) -m twine check --strict dist/*

# The stamp is written last, so an interrupted set-up starts over; it is a copy of pyproject.toml, so only a change
# of its content (never a touched file) installs again.
env:
	@if ! cmp -s pyproject.toml $(STAMP); then \
		echo "Setting up $(VENV) (a few minutes the first time)"; \
		$(MAKE) -s python && \
		{ $(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); } && \
		$(call get_uv,$(PY)) && \
		$(call install,$(PY)) -e '.[pipelines,dev]' && \
		cp pyproject.toml $(STAMP); \
	fi

python:
	@$(PYTHON) -c 'import sys; sys.exit("attnreid needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'

clean:
	rm -rf $(VENV) $(OLDEST) $(CORE) .venv-peers runs build dist .mypy_cache .ruff_cache .pytest_cache
