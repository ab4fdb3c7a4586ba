# The words of the README. Each makes the environment first if it is not there.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: run few_labels test check test-slow test-board bench docs clean

run: .venv/ready
	$(BIN)/distiq run fashion_mnist

few_labels: .venv/ready
	$(BIN)/distiq run few_labels

# Two processes of one thread each: faster than one of two, since most networks here are tiny. What takes longest comes
# first (tests/conftest.py).
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

# C files on emulated boards, and the recipe keyword_board in small; skipped where gcc-arm-none-eabi or qemu-system-arm
# is not installed.
test-board: .venv/ready
	$(BIN)/python -m pytest -m "slow or not slow" tests/runtimes/test_c99_board.py tests/whole/test_board.py

# A run that misses its budget (exit code 3) leaves a run to measure all the same.
bench: .venv/ready
	$(BIN)/distiq run fashion_mnist || test $$? -eq 3
	$(BIN)/python benchmarks/onnx_speed.py
	$(BIN)/python benchmarks/cached_teacher.py
	$(BIN)/distiq ablate fashion_mnist --seeds 5

# The site, into build/site; a link that leads nowhere ends it.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# torch first and alone: pinned, so that pip takes the same build for all that needs it.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e .[dev]
	touch $@

clean:
	rm -rf .venv
