# Two commands do everything on a machine with Python 3.11 and a C compiler:
#   make demo    the main job, on a real table
#   make test    the whole test suite
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BUILD_INPUTS = pyproject.toml setup.py $(wildcard fastsynth/*.pyx fastsynth/*.h)

.PHONY: demo test test-debug lint bench clean

demo: $(VENV)/.demo
	rm -rf demo
	$(BIN)/fastsynth demo --out demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

# The kernels' tests against a build with bounds checks and sanitizers.
test-debug: $(VENV)/.test
	rm -rf build/debug && mkdir -p build/debug
	FASTSYNTH_DEBUG=1 $(BIN)/python setup.py -q build --build-lib build/debug --build-temp build/debug-objects
	cp -r tests build/debug/tests
	cd build/debug && LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
		$(abspath $(BIN))/python -m pytest -q -p no:cacheprovider -c $(abspath pyproject.toml) --rootdir=. tests/test_tree.py tests/test_calibration.py tests/test_count.py tests/test_latent.py tests/test_copula.py

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint fastsynth
	$(BIN)/mypy

# Seconds, memory and quality beside other packages; results stay in benchmarks/results and are not measured again.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/bench.py --size small
	$(BIN)/python benchmarks/bench.py --table

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp an extra; the compiled kernels are rebuilt when its source changes, never otherwise.
$(VENV)/.demo $(VENV)/.test $(VENV)/.lint $(VENV)/.bench: $(VENV)/.%: $(BUILD_INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install -q "setuptools>=77" "Cython>=3.1"
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build demo fastsynth/*.so fastsynth.egg-info
