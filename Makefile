# `make help` lists the targets. Everything they need is installed into .venv on first use.
PYTHON ?= python3
SCALE ?= paper
YES ?=
VENV ?= .venv
REQUIREMENTS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN_YES := $(if $(filter 1 true yes,$(YES)),yes=true)

.DEFAULT_GOAL := help
TABLES := $(addprefix reproduce-table,1 2 3 4 5 6)
.PHONY: help install demo demo-noise demo-language compare-methods benchmark bench gpu-check test test-hydra-next test-long check format pages clean $(TABLES)

help:  ## list the targets
	@grep -hE '^(# )?[a-zA-Z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^# //; s/:[^#]*## */\t/' | expand -t 22

install: $(STAMP)  ## install ban and its development tools into .venv

# Installing copies the Hydra plugins and records the version.
$(STAMP): pyproject.toml ban/__init__.py ban/launch/hydra_plugins/ban.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' || \
		{ echo "ban needs Python 3.11 to 3.14: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev $(REQUIREMENTS)
	@touch $@

demo: install  ## train a teacher and three born-again generations on digits: minutes on a CPU
	$(BIN)/ban experiment=demo
	$(BIN)/ban report demo

demo-noise: install  ## the demo with a fifth of the training labels wrong, which shows the largest effect
	$(BIN)/ban experiment=demo_noise

demo-language: install  ## train born-again language models on the text of Python's own documentation
	$(BIN)/ban experiment=demo_language

test: check  ## run the checks and the test suite
	$(BIN)/pytest -n 4 --dist worksteal  # 4 workers on 2 cores: many tests wait

test-hydra-next:  ## run the test suite on the pre-release of Hydra 1.4, installed into .venv-hydra-next
	$(MAKE) test VENV=.venv-hydra-next REQUIREMENTS="'hydra-core>=1.4.0rc1'"

test-long: install  ## run competing sweeps that are killed at random, and inject hundreds of faults into stores
	$(BIN)/pytest -m long -s

check: install  ## check format, style, spelling, types and the layers of imports
	$(BIN)/ruff format --check ban tests
	$(BIN)/ruff check ban tests
	$(BIN)/codespell
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: install  ## format the code and fix its style
	$(BIN)/ruff format ban tests
	$(BIN)/ruff check --fix ban tests

pages: install  ## write what docs/methods.md and docs/methods/ take from the YAML files of the methods
	$(BIN)/python -m ban.commands.method_pages docs

# reproduce-tableN:  ## run an experiment of the paper, N = 1 … 6; SCALE=paper|budget|smoke; YES=1 starts without asking
$(TABLES): reproduce-table%: install
	$(BIN)/ban -m experiment=table$* scale=$(SCALE) $(RUN_YES)
	$(BIN)/ban table $* scale=$(SCALE)

EXPERIMENTS := $(basename $(notdir $(wildcard conf/experiment/*.yaml)))
METHODS := $(filter-out demo% table% benchmark,$(EXPERIMENTS))

compare-methods: install  ## compare every method with training on labels alone; SCALE=paper|budget|digits|smoke
	@for experiment in $(METHODS); do $(BIN)/ban experiment=$$experiment scale=$(SCALE) $(RUN_YES) || exit 1; done
	$(BIN)/ban table methods

benchmark: install  ## compare methods for pairs of teacher and student (Tian et al. 2020); SCALE=paper|budget|digits|smoke
	$(BIN)/ban experiment=benchmark scale=$(SCALE) $(RUN_YES)
	$(BIN)/ban table benchmark

bench: install  ## measure the speed of trainings here beside plain loops: minutes; results go to bench.json
	$(BIN)/ban bench startup=true json=bench.json

gpu-check: install  ## check and measure a machine with a GPU in about ten minutes; writes gpu-check.json and gpu-check.md
	$(BIN)/ban bench gpu

clean:  ## remove the environments and caches, but neither outputs nor data
	rm -rf .venv .venv-hydra-next .pytest_cache .ruff_cache .import_linter_cache
