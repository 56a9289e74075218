# The commands of FlowOS.  Each works alone on a fresh clone: it makes .venv, compiles, and as
# root on Debian or Ubuntu installs the packages it lacks.  Details are logged under build/log.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find flowos/core flowos/services decoders modules -name '*.py[xd]' -o -name '*.h')

help:      ## this list
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.built  ## strip a pattern from the pages in a real capture, before and after
	@$(BIN)/python examples/strip_demo.py

test: $(VENV)/.built $(VENV)/.tested  ## every test, then short rounds under sanitizers and fuzzers
	@scripts/debian.sh live fuzz
	@scripts/test.sh

bench: $(VENV)/.built $(VENV)/.benched  ## compare with rivals; results in benchmarks/results
	@scripts/debian.sh bench
	@$(BIN)/python benchmarks/run.py $(BENCH)

fuzz: $(VENV)/.made  ## each fuzz harness for FUZZ_SECONDS (default 300)
	@scripts/debian.sh fuzz
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-300} scripts/fuzz.sh

soak: $(VENV)/.built $(VENV)/.tested  ## the tests with twenty times the examples, and those that run for minutes
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -m "soak or not soak"

build: $(VENV)/.built  ## compile what changed

clean: ## remove what was compiled
	rm -rf build dist *.egg-info $(VENV)/.built
	find flowos decoders modules -name '*.so' -delete
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove the virtual environment too
	rm -rf $(VENV)

$(VENV)/.made: pyproject.toml setup.cfg scripts/setup.sh scripts/debian.sh scripts/lib.sh
	@scripts/setup.sh venv
	@touch $@

$(VENV)/.built: $(VENV)/.made setup.py $(NATIVE)
	@scripts/setup.sh build
	@touch $@

$(VENV)/.tested: $(VENV)/.made
	@scripts/setup.sh test
	@touch $@

$(VENV)/.benched: $(VENV)/.made
	@scripts/setup.sh bench
	@touch $@

.PHONY: help demo test bench fuzz soak build clean distclean
