# make run    the whole experiment through DVC         make flow   the same through Prefect
# make test   the tests                                make check  lint, types, imports, dependencies, security, docs
# make repro-check   the pipeline in two clones of HEAD whose surroundings differ: MATCH, or the first difference
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PRESET ?= tiny

.DEFAULT_GOAL := help
.PHONY: help run flow test check lint types site house repro-check
help:
	@head -3 Makefile

# torch first and by exact version: a bare range would let another package choose the build
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed, this is " + sys.version'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	install -d -m 700 .triplex  # DVC would make its site cache, which lies here, world-writable
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null || true  # Triton has files of later Pythons; a start of dvc takes a third of the time
	$(BIN)/dvc config --local core.site_cache_dir '$(CURDIR)/.triplex/dvc'  # DVC's queue, in folders of its own, needs the whole path
	touch $@

run: .venv/installed
	$(BIN)/python -m pipelines check
	$(BIN)/dvc repro
	@echo 'report: reports/index.html'

flow: .venv/installed
	$(BIN)/python -m pipelines run

test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder  # files of few tests are the slow ones

check: lint types site house
lint types site house: .venv/installed
lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
types:
	$(BIN)/mypy
site:
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # not --quiet, which hides the warnings from --strict too
house:
	$(BIN)/python -m pytest tests/test_architecture.py tests/security/test_source.py

repro-check: .venv/installed
	$(BIN)/python -m pipelines.repro_check --preset '$(PRESET)'
