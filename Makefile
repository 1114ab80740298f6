# make run    the whole experiment through DVC         make flow   the same through Prefect
# make test   the tests                                make check  lint, types, imports, dependencies
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export HF_HUB_DISABLE_TELEMETRY = 1
export DVC_NO_ANALYTICS = 1
export DO_NOT_TRACK = 1

.DEFAULT_GOAL := help
.PHONY: help run flow test check
help:
	@head -2 Makefile

# torch first and by exact version: a bare range would let another package choose the build
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed, this is " + sys.version'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	install -d -m 700 .triplex  # DVC would make its site cache, which lies here, world-writable
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q -j 0 .venv/lib || true  # a start of dvc takes a third of the time
	touch $@

run: .venv/installed
	$(BIN)/python -m pipelines check
	$(BIN)/dvc repro
	@echo 'report: reports/index.html'

flow: .venv/installed
	$(BIN)/python -m pipelines run

test: check
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py
