# Set-up in two commands: `make demo` shows the whole path, `make test` runs every test. Both can be run again.
# PYTHON chooses the interpreter (3.10 or newer); the packages go to .venv in the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
LCM := $(BIN)/lcm

# The tests of numbers, and processors to run them as: what libraries would do on an old one, on one with AVX2, on one of
# AMD's, and with many threads. A variable that a machine's libraries do not know changes nothing.
NUMERIC := check_reference codec_lsa codec_sonar codec_special data_build data_normalize diffusion evaluate_bootstrap \
  evaluate_metrics generate generate_text model model_parts train_optimizer train_timestep_loss visualize_schedule
NO_AVX512 := NPY_DISABLE_CPU_FEATURES='AVX512F AVX512_SKX X86_V4 AVX512_ICL AVX512_SPR'
OLD := MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Nehalem $(NO_AVX512)
AVX2 := MKL_CBWR=AVX2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell $(NO_AVX512)
AMD := MKL_CBWR=SSE4_2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Zen $(NO_AVX512)

.PHONY: demo install test fuzz test-portable lint format clean
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

# Nearly right input to every command that reads files, a minute each.
fuzz: $(VENV)/.installed-development
	OMP_NUM_THREADS=1 LCM_FUZZ_SECONDS=60 $(BIN)/python -m pytest -s tests/cli/fuzz_commands.py

define run-numeric
	@echo '$(1)'
	@env $(1) $(BIN)/python -m pytest -q $(NUMERIC:%=tests/unit/test_%.py)

endef

test-portable: $(VENV)/.installed-development
	$(foreach processor,1 2 16,$(call run-numeric,OMP_NUM_THREADS=$(processor)))
	$(foreach processor,OLD AVX2 AMD,$(call run-numeric,OMP_NUM_THREADS=1 $($(processor))))

lint: $(VENV)/.installed-development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
