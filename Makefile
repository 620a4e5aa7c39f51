# Set-up in two commands: `make demo` shows the whole path, `make test` runs every test. Both can be run again.
# PYTHON chooses the interpreter (3.10 or newer); the packages go to .venv in the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
LCM := $(BIN)/lcm

.PHONY: demo install test lint format clean
.DELETE_ON_ERROR:

demo: install
	@echo '$$ lcm data sample'
	@$(LCM) data sample
	@echo '$$ lcm bootstrap'
	@$(LCM) bootstrap
	@echo '$$ lcm train --deepspeed configs/zero2.json'
	@$(LCM) train --deepspeed configs/zero2.json
	@echo '$$ lcm infer "We must do more for our schools."'
	@$(LCM) infer "We must do more for our schools."
	@echo
	@echo 'What is there now:'
	@du -sh data/sample models/base runs/base
	@echo 'Next: source $(BIN)/activate, then lcm --help, lcm evaluate, lcm visualize data'

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo 'Python 3.10 or newer is needed: make PYTHON=python3.11 ...'; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing the pinned packages into $(VENV) (a few minutes the first time)'
	$(PIP) --editable '.[deepspeed]'
	@touch $@

$(VENV)/.installed-development: $(VENV)/.installed
	$(PIP) --editable '.[adamw8bit,deepspeed,hf,ray,wandb,test,lint]'
	@touch $@

# Two files of tests at a time, then those that start two processes themselves; one thread each: the models are small.
test: $(VENV)/.installed-development
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/cli
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/distributed

lint: $(VENV)/.installed-development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
