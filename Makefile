# Every target except gpu-check first installs what it needs into .venv. It installs again when
# pyproject.toml or constraints.txt change.
#
#   make demo PYTHON=/opt/python3.12/bin/python3     makes .venv with another Python
#   make test ARGS="-k resume -x" JOBS=1             arguments for pytest, and the number of test processes
#   make soak ARGS="--minutes 60 --seed 7"           arguments for scripts/soak/disturb.py

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
ARGS ?=
JOBS ?= 2

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
BEAM_INSTALLED := $(VENV)/.installed-beam
BENCH_INSTALLED := $(VENV)/.installed-bench
DEMO_RUN := runs/digits/digits

# PyTorch 2.11 has builds only for these versions of Python.
CHECK_VERSION := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))

.PHONY: help
help: ## Lists the targets
	@echo "Usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(INSTALLED) ## Transcribes the shipped recordings of spoken digits offline, and prints the transcripts
	@$(PY) -m pipeline.run dataset=digits run_dir=$(DEMO_RUN) || { code=$$?; [ $$code -eq 3 ] || exit $$code; }
	@$(PY) scripts/show_transcripts.py $(DEMO_RUN)

.PHONY: test
test: $(BEAM_INSTALLED) ## Runs the whole test suite; ARGS="..." is passed to pytest
	@$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: bench
bench: $(BENCH_INSTALLED) ## Runs the benchmarks on the CPU, about 25 minutes; writes tables to scripts/results/
	@$(PY) scripts/bench/all.py --device cpu $(ARGS)

.PHONY: bench-gpu
bench-gpu: $(BENCH_INSTALLED) ## Runs the tests that need CUDA, and the benchmarks on the GPU
	@$(PY) scripts/bench/all.py --device cuda $(ARGS)

.PHONY: gpu-check
gpu-check: ## Checks and measures the project on a CUDA device in at most 8 minutes; installs nothing
	@$(or $(PYTHON),$(wildcard $(PY)),python3) scripts/gpu_check.py $(ARGS)

.PHONY: soak
soak: $(INSTALLED) ## Kills, stops and damages runs at random for some minutes, and checks their tables
	@$(PY) scripts/soak/disturb.py $(ARGS)

.PHONY: soak-formats
soak-formats: $(INSTALLED) ## Runs damaged files of every format among good ones for some minutes, and checks each row
	@$(PY) scripts/soak/formats.py $(ARGS)

.PHONY: soak-growth
soak-growth: $(INSTALLED) ## Grows and changes a corpus at random while runs over it are killed, and checks every row
	@$(PY) scripts/soak/growth.py $(ARGS)

.PHONY: pictures
pictures: $(BEAM_INSTALLED) ## Draws the pictures of the guide anew; ARGS=--check says which may be out of date
	@$(PY) -m scripts.pictures.all $(ARGS)

# The variable silences an announcement of MkDocs 2. pyproject.toml allows only MkDocs 1.
.PHONY: docs
docs: $(INSTALLED) ## Builds the user guide into site/ offline; open site/index.html from disk
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "The guide is in site/index.html."

.PHONY: outputs
outputs: $(BEAM_INSTALLED) ## Writes what commands print into README.md and the guide anew; ARGS=--check only says what is old
	@$(PY) -m scripts.docs.outputs $(ARGS)

.PHONY: notebook
notebook: $(INSTALLED) ## Runs the notebook of the guide and stores what its cells give
	@$(PY) -m scripts.docs.execute_notebook docs/tutorial.ipynb

.PHONY: lint
lint: $(INSTALLED) ## Checks style, types, imports and the Dockerfile
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy pipeline
	$(VENV)/bin/lint-imports
	$(VENV)/bin/vulture
	$(VENV)/bin/hadolint Dockerfile

# The marker file is written last, so an interrupted installation is repeated.
$(INSTALLED): $(PY) pyproject.toml constraints.txt
	@echo "Installing into $(VENV). The first time this takes several minutes and about 5 GB, most of it PyTorch."
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "Installed."

# The tests of decoder=beam need KenLM, which a C++ compiler builds. The demo does not wait for that.
$(BEAM_INSTALLED): $(INSTALLED)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[beam]'
	@touch $@

# Only the benchmarks need transformers, which they compare with.
$(BENCH_INSTALLED): $(INSTALLED)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

# A link to a removed Python counts as missing, so make runs this rule again.
$(PY):
	@found=; without_venv=; \
	for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python); do \
	    $$candidate -c '$(CHECK_VERSION)' >/dev/null 2>&1 || continue; \
	    if $$candidate -c 'import ensurepip, venv' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	    without_venv=$${without_venv:-$$candidate}; \
	done; \
	if [ -z "$$found" ] && [ -n "$$without_venv" ]; then \
	    echo "error: $$without_venv has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	    exit 1; \
	elif [ -z "$$found" ]; then \
	    echo "error: no Python 3.11 to 3.14 found (tried: $(or $(PYTHON),python3, python3.11 to python3.14, python)); name one with PYTHON=..." >&2; \
	    exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$found --version)."; \
	$$found -m venv --clear $(VENV)
