PYTHON ?= python3
BIN := .venv/bin
TORCH ?= cpu
FAST := tests/unit tests/scenarios tests/simulation tests/fuzz tests/test_configs.py

.PHONY: setup demo audit coverage test test-fast test-slow test-chaos lint fmt types check bench bench-ops docs tutorial help chaos simulate mutants fuzz fuzz-craftax pixels constraints ops emulate-cuda test-gpu sanitize-cuda wheel

setup: .venv/.ready ## .venv with pinned dependencies, kernels built

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(filter cpu,$(TORCH)),torch==2.13.0,torch)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	-$(BIN)/python -m compileall -qq -j 0 $(BIN)/../lib # on all cores, which pip does on one
	$(BIN)/python -m ops
	touch $@

ops: setup ## build the kernels
	GROWSTAGE_OPS=auto $(BIN)/python -m ops

emulate-cuda: setup ## CUDA kernels on a CPU
	$(BIN)/python tests/emulator

test-gpu: setup ## tests of the ops on a device
	$(BIN)/python -m pytest tests/unit/ops

sanitize-cuda: setup ## CUDA kernels under compute-sanitizer
	for tool in memcheck racecheck initcheck synccheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
		$(BIN)/python -m pytest tests/unit/ops -k 'cuda and not graph' || exit 1; done

wheel: setup ## the kernels as a wheel
	$(BIN)/pip install --quiet --disable-pip-version-check 'scikit-build-core>=0.10' 'cmake>=3.25' ninja
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist ./kernels

demo: setup ## a real stream on a local Ray: digits and Craftax
	$(BIN)/growstage run configs/quickstart.toml

test: setup ## all tests that CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(FAST) tests/doors
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow' tests/integration

coverage: setup ## lines that the fast tests and doors run, without what they do in other processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report term $(FAST) tests/doors

test-slow: setup ## tests that take a minute or more each
	$(BIN)/python -m pytest -m slow tests/integration

test-fast: setup ## without Ray, Craftax and the browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(FAST)

lint: setup ## format, style, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

fmt: setup ## format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup ## mypy
	$(BIN)/mypy

check: lint types ## lint and types

bench: setup ## what the orchestration costs
	$(BIN)/python benchmarks/bench_orchestration.py

bench-ops: setup ## what the kernels cost
	$(BIN)/python benchmarks/bench_ops.py

chaos: setup ## faults on real runs (N, SEED, KINDS)
	$(BIN)/python -m tests.chaos $(or $(N),46) $(or $(SEED),0) $(KINDS)

test-chaos: setup ## more and longer kills in the tests
	GROWSTAGE_CHAOS=10 $(BIN)/python -m pytest -s tests/integration/test_kill.py tests/integration/test_tune_pbt.py tests/integration/test_cluster_nodes.py tests/integration/test_tracking.py tests/integration/test_ops_build.py

simulate: setup ## histories of a simulated world (N, SEED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.simulation $(or $(N),3000) $(or $(SEED),0)

mutants: setup ## planted bugs, each to be found by a test (ROOMS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(ROOMS)

fuzz: setup ## hostile input for everything that reads (N, SEED, TARGETS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(or $(N),2000) $(or $(SEED),0) $(TARGETS)

fuzz-craftax: setup ## a million random steps of each compiled game under sanitizers
	GROWSTAGE_FUZZ=1000000 $(BIN)/python -m pytest -s tests/integration/test_craftax_sanitizers.py

pixels: setup ## Craftax from pixels, long
	GROWSTAGE_PIXELS=1 $(BIN)/python -m pytest -s tests/integration/test_rl_pixels.py

docs: setup ## tables, generated configs, the site in build/site
	$(BIN)/growstage list > docs/tables.txt
	$(BIN)/python docs/systems/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

tutorial: setup ## every command of the tutorial
	GROWSTAGE_TUTORIAL=1 $(BIN)/python -m pytest tests/unit/test_tutorial.py

audit: setup ## known vulnerabilities of the pinned dependencies (asks PyPI)
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | sort | expand -t 18

constraints: setup ## pin what is installed
	$(BIN)/pip freeze --exclude-editable | grep -v '^torch==' > constraints.txt
