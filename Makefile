# One command for everything, the same here and in continuous integration. Needs Python 3.11 or newer and make.
PYTHON ?= python3
WORKERS ?= 2
SCENARIO ?= cartpole-swingup

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
ROOMS := __init__.py robots sim controllers learners launch
# Cores are shared by the test workers: one thread each.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OMP_WAIT_POLICY=passive

.DEFAULT_GOAL := help
.PHONY: help run test test-all lint typecheck format wheel clean

help:
	@echo "make run        run a scenario (SCENARIO=$(SCENARIO)), after setting up $(VENV)"
	@echo "make test       what continuous integration runs: ruff, mypy, and the tests that are not slow"
	@echo "make test-all   the same with the slow tests"
	@echo "make format     let ruff mend and format the code"
	@echo "make wheel      build dist/*.whl"
	@echo "make clean      remove what was built and cached ($(VENV) and runs/ stay)"

# The stamps make a second call start at once, and an edited pyproject.toml or constraints.txt reinstall.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "trimtab needs Python 3.11 or newer, $(PYTHON) is not; try make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing into $(VENV) (some minutes, once)"
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing into $(VENV) (some minutes, once)"
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation -e '.[dev]'
	@mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/trimtab
	@touch $@ $(VENV)/.run

run: $(VENV)/.run
	$(BIN)/trimtab run $(SCENARIO)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy takes a package's name from its folder, and a clone's folder may have any: it looks through a link named trimtab.
typecheck: $(VENV)/.dev
	cd $(VENV)/src && ../bin/mypy --config-file trimtab/pyproject.toml --cache-dir ../../.mypy_cache $(addprefix trimtab/,$(ROOMS))

test: lint typecheck
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) --dist worksteal

test-all: lint typecheck
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) --dist worksteal -m ''

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
