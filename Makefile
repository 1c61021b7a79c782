# `make demo` and `make test` do all the set-up themselves, from a bare clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WHEEL_VENV := .cache/wheel-venv
HEART := src/layermix/core/*.py

# Tests run in two processes of one thread each: on two cores that is faster than two threads. A
# file stays in one process, so that what its tests share is made once; the longest files are first.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest

.PHONY: demo test test-slow lint unit wheel docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       the whole job on data and a teacher that need no download"
	@echo "make test       linters, types, import contract, tests, coverage, the built wheel"
	@echo "make test-slow  the tests marked slow"
	@echo "make docs       the site of the documentation, into site/"
	@echo "make clean      remove the virtual environment, caches, the demo's output and the site"

# Python compiles a module when it is first imported: few of the 17,000 files ever are.
$(READY): pyproject.toml constraints.txt
	@date +%s > .setup-started
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[demo,report,onnx,ray,static,docs,dev]'
	@echo "set-up took $$(( $$(date +%s) - $$(cat .setup-started) )) s"; rm .setup-started
	@touch $@

demo: $(READY)
	@started=$$(date +%s); HF_HUB_OFFLINE=1 $(BIN)/layermix demo && echo "the demo took $$(( $$(date +%s) - started )) s; layermix is $(BIN)/layermix here"

test: lint unit wheel

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports

unit: $(READY)
	@rm -f .coverage .coverage.*
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --cov --cov-report=
	$(BIN)/coverage report --fail-under=90
	@echo "the heart:"
	$(BIN)/coverage report --include=$(HEART) --fail-under=100

# The wheel is installed outside the tree; its environment borrows the dependencies of the other one.
wheel: $(READY)
	@rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . > /dev/null
	$(PYTHON) -m venv --without-pip $(WHEEL_VENV)
	$(BIN)/python -m pip --python $(WHEEL_VENV)/bin/python install --quiet --disable-pip-version-check --no-deps --no-index dist/*.whl
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$($(WHEEL_VENV)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth
	LAYERMIX_CLI=$(CURDIR)/$(WHEEL_VENV)/bin/layermix $(PYTEST) -m wheel tests/cli

test-slow: $(READY)
	$(PYTEST) -m slow

# The variable keeps the theme from printing, at every build, until when it is maintained (May 2027).
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The site is in site/. To read it with its search: $(BIN)/python -m http.server --directory site"

clean:
	rm -rf $(VENV) .cache dist demo-out site .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache
