# make rlhf    install if need be, then RLHF on a real model; run it again and it resumes, or reuses what is there
# make smoke   the same chain on a tiny model, in a minute
# make bench   Align beside TRL and transformers, into benchmarks/results/: 40 minutes; make bench quick=1 takes 5
# make test    the tests            make check   lint, format, types            make clean   all that can be made again
#
# Overrides go into ARGS:    make rlhf ARGS="seed=1 stages.ppo.lr=1e-5"    make test ARGS="tests/align/config -x"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

.PHONY: rlhf smoke bench test check clean
.DEFAULT_GOAL := rlhf

rlhf: $(VENV)/.installed
	@$(BIN)/python -m align.run recipe=rlhf $(ARGS)

smoke: $(VENV)/.installed
	@$(BIN)/python -m align.run recipe=smoke $(ARGS)

# measured side by side, into benchmarks/results/; make bench ARGS="--list" names the comparisons
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.run $(if $(quick),--quick) $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find align tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written last: an installation that was interrupted is taken up again.
$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing Align into $(VENV) (a few minutes the first time)"
	@$(INSTALL) --build-constraint constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing Align and its test tools into $(VENV) (a few minutes the first time)"
	@$(INSTALL) --build-constraint constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Align needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --upgrade pip
	@touch $@
