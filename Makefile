# `make help` lists the targets. Everything they need is installed into .venv on first use.
PYTHON ?= python3
SCALE ?= paper
YES ?=
BIN := .venv/bin
STAMP := .venv/.installed
RUN_YES := $(if $(filter 1 true yes,$(YES)),yes=true)

.DEFAULT_GOAL := help
TABLES := $(addprefix reproduce-table,1 2 3 4 5 6)
.PHONY: help install demo demo-noise demo-language compare-methods test test-long check format clean $(TABLES)

help:  ## this list
	@grep -hE '^(# )?[a-zA-Z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^# //; s/:[^#]*## */\t/' | expand -t 22

install: $(STAMP)  ## .venv with ban and what its development needs

$(STAMP): pyproject.toml ban/launch/hydra_plugins/ban.py  # which is copied when ban is installed
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "ban needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: install  ## a teacher and three born-again generations on digits, minutes on a CPU
	$(BIN)/ban experiment=demo

demo-noise: install  ## the same with a fifth of the training labels wrong: the effect at its largest
	$(BIN)/ban experiment=demo_noise

demo-language: install  ## a born-again language model on the English of Python's own help
	$(BIN)/ban experiment=demo_language

test: check  ## the whole test suite (and the checks); a third worker, because many tests wait
	$(BIN)/pytest -n 3 --dist worksteal

test-long: install  ## competing sweeps, killed at random in twenty rounds: half a minute each or more
	$(BIN)/pytest -m long -s

check: install  ## style, types and floors
	$(BIN)/ruff format --check ban tests
	$(BIN)/ruff check ban tests
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: install  ## rewrite the code in the house's style
	$(BIN)/ruff format ban tests
	$(BIN)/ruff check --fix ban tests

# reproduce-tableN:  ## an experiment of the paper, N = 1 … 6; SCALE=paper|budget|smoke, YES=1 to go ahead without a GPU
$(TABLES): reproduce-table%: install
	$(BIN)/ban -m experiment=table$* scale=$(SCALE) $(RUN_YES)
	$(BIN)/ban table $* scale=$(SCALE)

SYSTEMS := born_again model_compression logit_regression hinton fitnets fsp pi_model temporal_ensembling mean_teacher \
	deep_mutual_learning tolerant_teacher

compare-methods: install  ## every system beside the labels alone; SCALE=paper|budget|digits|smoke
	@for system in $(SYSTEMS); do $(BIN)/ban experiment=$$system scale=$(SCALE) $(RUN_YES) || exit 1; done
	$(BIN)/ban table methods

clean:  ## remove .venv and caches (never outputs or data)
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache
