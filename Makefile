# Everything is installed into .venv and built in place, once: a second call goes straight to work, and after a
# change of C++ only what changed is compiled. Python 3.10 or newer and a C++17 compiler are all that must be there.

PYTHON ?= python3
# What each target hands on, such as ARGS="--seed 1 --device cpu" or PYTEST_ARGS="-k gae -x".
ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Of make test-peers: names of hosts, all when empty.
HOSTS ?=
# Of make fuzz: how many cases, and which; of make soak: how long.
FUZZ_RUNS ?= 100000
FUZZ_SEED ?= 0
SOAK_SECONDS ?= 600
# Of make faults: names, or --quick.
FAULTS_ARGS ?=
# Of make profile-cost: names of jobs, --steps.
PROFILE_ARGS ?=
# Of make docs-commands: such as --clone DIR, --resume, --check, --list, --pages README.md, --only, --skip, --merge.
DOCS_ARGS ?=
# For pip, such as an index of CPU builds of torch where there is no GPU (they are much smaller).
PIP_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c requirements/constraints.txt $(PIP_ARGS)
# The editable install and the rebuilds share their objects.
NINJA := HOTLOOP_BUILD_DIR=build/ninja
CPP := $(wildcard csrc/*/*)
# The runner that executes CUDA kernels on the CPU in tests, and what `make portability` builds.
RUNNER := $(wildcard tests/cuda_host/*) $(wildcard tests/portability/*)

DOCS := .venv-docs

.PHONY: help docs docs-serve docs-commands train test test-gpu bench-gpu bench bench-loops bench-tests instructions lint format tidy coverage isa-check cuda-gate \
  sanitize sanitize-threads faults profile-cost portability fuzz fuzz-atheris soak wheels test-wheels wheel-check peers \
  test-peers bench-integrations environments clean distclean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo "make train        set up, then train CartPole-v1 to a mean return of 475  (ARGS=...)"
	@echo "make test         set up, then run the tests                              (PYTEST_ARGS=...)"
	@echo "make test-gpu     the tests that need an NVIDIA GPU, results in benchmarks/results/ (PYTEST_ARGS=...)"
	@echo "make bench-gpu    time the ops and whole loops on an NVIDIA GPU, results in benchmarks/results/ (BENCH_ARGS=...)"
	@echo "make bench        set up, then run the benchmarks, under 5 minutes        (BENCH_ARGS=...)"
	@echo "make bench-loops  install other systems, then time whole training loops beside theirs, some minutes"
	@echo "make bench-tests  the same op by op under pytest-benchmark                (PYTEST_ARGS=...)"
	@echo "make instructions count the instructions of a fixed set of calls and compare (needs valgrind)"
	@echo "make lint         ruff, mypy --strict, clang-format; make format repairs what can be repaired"
	@echo "make tidy         clang-tidy over csrc"
	@echo "make coverage     which lines of Python and C++ the tests run              (PYTEST_ARGS=...)"
	@echo "make isa-check    no AVX code can leak into the path for older processors"
	@echo "make sanitize     the op tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make cuda-gate    every CUDA kernel for every architecture: no warning, no spill (needs nvcc)"
	@echo "make wheels       sdist and a wheel for each Python from 3.10 to 3.13 here, into dist/"
	@echo "make test-wheels  install each of those into a fresh environment and use it  (PYTEST_ARGS=...)"
	@echo "make sanitize-threads  ops from several threads at once under ThreadSanitizer"
	@echo "make fuzz         the native boundary under arguments of chance and AddressSanitizer (FUZZ_RUNS=...)"
	@echo "make fuzz-atheris the same cases chosen by libFuzzer, by the coverage of the Python code (FUZZ_RUNS=...)"
	@echo "make soak         train for ten minutes under random kills and compare    (SOAK_SECONDS=...)"
	@echo "make faults       plant faults in a copy of the sources and see each noticed (FAULTS_ARGS=...)"
	@echo "make portability  kernels by clang, for aarch64 and for Windows: the same bits (what is not installed is left out)"
	@echo "make profile-cost what hotloop.profile() costs, in instructions (needs valgrind; PROFILE_ARGS=...)"
	@echo "make wheel-check  build sdist and wheel in isolation, inspect them, use the wheel elsewhere"
	@echo "make docs         the documentation as a site, into build/site; make docs-serve shows it while it is edited"
	@echo "make docs-commands run every command that the documentation shows, over an hour; results in benchmarks/results/ (DOCS_ARGS=...)"
	@echo "make peers        install what tests marked peers compare with, and run those"
	@echo "make test-peers   install each trainer that hotloop slips into beside .venv, train it with and without (HOSTS=...)"
	@echo "make bench-integrations  the same, timed in turn                          (BENCH_ARGS=...)"
	@echo "make environments  install EnvPool, MettaGrid, Atari and PufferLib, and run the tests of their environments"
	@echo "make clean        remove what was built; make distclean removes .venv too"

train: $(VENV)/.extra-train $(VENV)/.native
	$(BIN)/hotloop train --stop-at-return 475 $(ARGS)

test: $(VENV)/.extra-test $(VENV)/.native
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-gpu: $(VENV)/.extra-test $(VENV)/.native
	@mkdir -p benchmarks/results
	$(BIN)/python -m pytest -m gpu --gpu-results=benchmarks/results/gpu_tests.json $(PYTEST_ARGS)

bench-gpu: $(VENV)/.extra-test $(VENV)/.extra-bench $(VENV)/.native
	@mkdir -p benchmarks/results
	$(BIN)/python -m benchmarks.gpu --json benchmarks/results/gpu_bench.json $(BENCH_ARGS)

bench: $(VENV)/.extra-bench $(VENV)/.native
	@mkdir -p benchmarks/results
	$(BIN)/hotloop bench --json benchmarks/results/bench.json --html benchmarks/results/bench.html $(BENCH_ARGS)

# The other loops, without their dependencies, see requirements/peers.txt.
bench-loops: $(VENV)/.extra-test $(VENV)/.extra-bench $(VENV)/.extra-envpool $(VENV)/.native
	$(PIP) --no-deps -r requirements/peers.txt -r requirements/loops.txt
	PUFFERLIB_DISABLE_CUDA=1 $(PIP) --no-deps --no-build-isolation --no-binary pufferlib-core pufferlib-core==3.0.23
	@mkdir -p benchmarks/results
	$(BIN)/hotloop bench --suite loops --json benchmarks/results/bench.loops.json $(BENCH_ARGS)

bench-tests: $(VENV)/.extra-bench $(VENV)/.native
	$(BIN)/python -m pytest benchmarks $(PYTEST_ARGS)

instructions: $(VENV)/.extra-test $(VENV)/.native
	$(BIN)/python tools/compare_instructions.py compare

lint: $(VENV)/.extra-dev $(VENV)/.native
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(filter %.h %.cpp %.cuh %.cu,$(CPP) $(RUNNER))

format: $(VENV)/.extra-dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(filter %.h %.cpp %.cuh %.cu,$(CPP) $(RUNNER))

tidy: $(VENV)/.extra-dev
	$(BIN)/python tools/tidy.py

coverage: $(VENV)/.extra-coverage
	tools/coverage.sh $(BIN)/python $(PYTEST_ARGS)

isa-check: $(VENV)/.native
	$(BIN)/python tools/check_isa_symbols.py build/ninja

sanitize: $(VENV)/.extra-test
	tools/sanitize.sh $(BIN)/python

wheels: $(VENV)/.extra-release
	$(BIN)/python tools/build_wheels.py

# Not those marked slow, which install another torch: PYTEST_ARGS="-m packaging" runs them too.
test-wheels: $(VENV)/.extra-test
	HOTLOOP_WHEELS=dist PIP_ARGS="$(PIP_ARGS)" $(BIN)/python -m pytest -m "not slow" tests/packaging $(PYTEST_ARGS)

sanitize-threads: $(VENV)/.extra-test
	tools/sanitize_threads.sh $(BIN)/python

fuzz: $(VENV)/.extra-test
	tools/fuzz.sh $(BIN)/python $(FUZZ_RUNS) $(FUZZ_SEED)

fuzz-atheris: $(VENV)/.extra-test $(VENV)/.native
	$(PIP) --no-deps atheris
	$(BIN)/python tools/fuzz_atheris.py -runs=$(FUZZ_RUNS) -len_control=0 -max_len=200

soak: $(VENV)/.extra-test $(VENV)/.native
	$(BIN)/python tools/soak.py --seconds $(SOAK_SECONDS)

faults: $(VENV)/.extra-test
	$(BIN)/python tools/plant_faults.py $(FAULTS_ARGS)

profile-cost: $(VENV)/.extra-train $(VENV)/.native
	$(BIN)/python tools/profile_cost.py $(PROFILE_ARGS)

portability: $(VENV)/.base
	$(BIN)/python tools/portability_check.py

cuda-gate: $(VENV)/.base
	$(BIN)/python tools/cuda_gate.py

wheel-check: $(VENV)/.extra-test
	$(BIN)/python tools/check_wheel.py

# In an environment of its own: it reads the sources and needs neither torch nor a build.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

docs-serve: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs serve $(ARGS)

docs-commands: $(VENV)/.extra-test $(VENV)/.native
	$(BIN)/python tools/run_docs_commands.py $(DOCS_ARGS)

$(DOCS)/.installed: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install -q --disable-pip-version-check -r requirements/docs.txt
	touch $@

# Without their dependencies, see requirements/peers.txt. Of pufferlib-core, which pins another torch, the compiled
# op alone is compared with.
peers: $(VENV)/.extra-test $(VENV)/.extra-bench $(VENV)/.native
	$(PIP) --no-deps -r requirements/peers.txt
	PUFFERLIB_DISABLE_CUDA=1 $(PIP) --no-deps --no-build-isolation --no-binary pufferlib-core pufferlib-core==3.0.23
	$(BIN)/python -m pytest -m peers $(PYTEST_ARGS)

# Each trainer that hotloop.integrations slips into gets an environment of its own, .venv-hosts/<host>.
test-peers: $(VENV)/.extra-test $(VENV)/.native
	$(BIN)/python tools/test_hosts.py $(HOSTS) -- $(PYTEST_ARGS)

bench-integrations: $(VENV)/.extra-test $(VENV)/.extra-bench $(VENV)/.native
	@mkdir -p benchmarks/results
	$(BIN)/python -m benchmarks.integrations --json benchmarks/results/bench.integrations.json $(BENCH_ARGS)

# Of pufferlib-core, which pins another torch, only what it steps environments with is used.
environments: $(VENV)/.extra-test $(VENV)/.native
	$(NINJA) $(PIP) -c requirements/environments.txt --no-build-isolation -e '.[envpool,mettagrid,atari,pufferlib]'
	PUFFERLIB_DISABLE_CUDA=1 $(PIP) --no-deps --no-build-isolation --no-binary pufferlib-core pufferlib-core==3.0.23
	$(BIN)/python -m pytest -m environments $(PYTEST_ARGS)

# Stamps. torch comes first and pinned: the later installs find their requirement met and leave it alone.
$(VENV)/.base: requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hotloop needs Python 3.10 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch setuptools pybind11 ninja
	touch $@

$(VENV)/.extra-%: $(VENV)/.base pyproject.toml
	$(NINJA) $(PIP) --no-build-isolation -e '.[$*]'
	touch $@

# The folders are named too: their times change when a file is added or removed.
$(VENV)/.native: $(VENV)/.base setup.py $(CPP) $(wildcard csrc/*)
	$(NINJA) $(BIN)/python setup.py -q build_ext --inplace
	touch $@

clean:
	rm -rf build dist python/hotloop/*.so python/*.egg-info $(VENV)/.native
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks
	find python tests tools benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(DOCS) .venv-hosts
