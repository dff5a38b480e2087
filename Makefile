# Everything runs in .venv, which the first target that needs it makes: python3 and pip suffice.

PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

.PHONY: demo bench faults test test-slow test-gpu lint format docs clean

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e .[test]
	touch $@

demo: .venv/installed
	PATH=$(abspath $(BIN)):$$PATH sh tools/demo.sh $(DEMO)

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

test-gpu: .venv/installed
	FAIL_WITHOUT_CUDA=1 $(BIN)/python -m pytest -m gpu

faults: .venv/installed
	$(BIN)/python -m tests.faults --json faults.json

bench: .venv/installed
	$(BIN)/pip install --quiet -e .[bench]
	$(BIN)/python -m benchmarks all --json bench.json

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/mapped/xdc_fast
	ln -sfn ../../../kernels ../../../tools .venv/mapped/xdc_fast
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed
	$(BIN)/pip install --quiet -e .[docs]
	$(BIN)/python -m sphinx -W --keep-going --quiet docs build/docs
	@echo build/docs/index.html

clean:
	rm -rf $(DEMO) build .venv
