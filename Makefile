PYTHON ?= python3
BIN := .venv/bin
TORCH ?= cpu
FAST := tests/unit tests/scenarios tests/simulation tests/test_configs.py

.PHONY: setup demo test test-fast lint fmt types check bench bench-ops docs chaos simulate mutants pixels constraints ops emulate-cuda test-gpu sanitize-cuda wheel

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(filter cpu,$(TORCH)),torch==2.13.0,torch)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m ops
	touch $@

ops: setup
	GROWSTAGE_OPS=auto $(BIN)/python -m ops

emulate-cuda: setup
	$(BIN)/python tests/emulator

test-gpu: setup
	$(BIN)/python -m pytest tests/unit/ops

sanitize-cuda: setup
	for tool in memcheck racecheck initcheck synccheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
		$(BIN)/python -m pytest tests/unit/ops -k 'cuda and not graph' || exit 1; done

wheel: setup
	$(BIN)/pip install --quiet --disable-pip-version-check 'scikit-build-core>=0.10' 'cmake>=3.25' ninja
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist ./kernels

demo: setup
	$(BIN)/growstage run configs/quickstart.toml

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(FAST) tests/doors
	$(BIN)/python -m pytest tests/integration --session-timeout 1320

test-fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(FAST)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup
	$(BIN)/mypy

check: lint types

bench: setup
	$(BIN)/python benchmarks/bench_orchestration.py

bench-ops: setup
	$(BIN)/python benchmarks/bench_ops.py

chaos: setup
	GROWSTAGE_CHAOS=10 $(BIN)/python -m pytest -s tests/integration/test_kill.py tests/integration/test_tune_pbt.py tests/integration/test_cluster_nodes.py tests/integration/test_tracking.py tests/integration/test_ops_build.py

simulate: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.simulation $(or $(N),3000) $(or $(SEED),0)

mutants: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(ROOMS)

pixels: setup
	GROWSTAGE_PIXELS=1 $(BIN)/python -m pytest -s tests/integration/test_rl_pixels.py

docs: setup
	$(BIN)/growstage list > docs/tables.txt
	$(BIN)/python docs/systems/generate.py

constraints: setup
	$(BIN)/pip freeze --exclude-editable | grep -v '^torch==' > constraints.txt
