# Four commands do everything on a machine with Python 3.11+ and make:
#   make demo    the whole recipe on a small synthetic corpus
#   make test    the tests
#   make lint    style and likely errors
#   make bench   the benchmarks; an hour
.DELETE_ON_ERROR:
.PHONY: demo test lint bench

PYTHON ?= python3
BIN := .venv/bin

define INSTALL
@if command -v uv > /dev/null; then \
	echo "installing with uv"; \
	uv pip install --quiet --python $(BIN)/python --editable '$(1)'; \
else \
	echo "installing with pip, this takes a few minutes"; \
	$(BIN)/python -m pip install --quiet --no-compile --editable '$(1)'; \
fi
endef

# Installed once; again when setup.py changes. uv is much faster than pip.
.venv/installed: setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(call INSTALL,.[test])
	@touch $@

demo: .venv/installed
	$(BIN)/python recipes/ASVspoof2019/LA/demo.py demo

# A test file at a time in each process, with one thread each, the slow ones of
# tests/integration first. The engines have one of their own: one that had run
# other tests before was seen to crash.
ENGINES := tests/unit/test_engines.py
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore $(ENGINES) \
		--numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ENGINES)

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# Other implementations to race against. Betty asks for an older Python than it
# needs.
bench: .venv/benchmarks
	$(BIN)/python benchmarks/run_all.py

.venv/benchmarks: .venv/installed
	$(call INSTALL,.[benchmarks])
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python 'betty-ml>=0.2'
	@touch $@
