# Every target makes its own virtual environment first, so a fresh clone needs only Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install test test-newest made-before first-hour oldest-tensorrt lint format demo engines bench gate gate-cpu gate-selftest clean

install: $(INSTALLED)

# constraints.txt pins what the tests ran with; a plain `pip install` follows pyproject.toml alone. pip
# would compile modules on one core; some are written for newer Pythons and cannot be compiled.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flashvsr-trt needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python .ci/pip_install.py --constraint constraints.txt --editable '.[dev,dev-tensorrt]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || echo 'modules for another Python stay uncompiled'
	touch $@

# What takes one core runs side by side. Then one worker a core, each with one thread: small networks gain more
# from the second worker. Files come in the order of tests/conftest.py, the long ones first. Bytecode is kept for
# the processes that tests start, whatever the shell says.
test: $(INSTALLED)
	$(MAKE) --no-print-directory --jobs=2 oldest-tensorrt lint
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# The Python classes of the oldest supported TensorRT, in build/: beside the newest they cannot be installed.
oldest-tensorrt: $(INSTALLED)
	$(BIN)/python -m tests.plugins.stand_in

# What needs no torch, on the newest Python here with the newest of every dependency. Torch has no CPU build for
# each new Python, so the bundle that ONNX Runtime runs there is made by $(VENV).
PYTHON_NEWEST ?= $(shell .ci/newest_python)
NEWEST_VENV ?= .venv-newest
NEWEST_BIN := $(NEWEST_VENV)/bin
NEWEST_INSTALLED := $(NEWEST_VENV)/.installed
MADE_BEFORE := build/made_before
NEWEST_TESTS := tests/newest tests/quality tests/cli/test_compare.py tests/files/test_new.py tests/files/test_staging.py \
	tests/runtime/test_pipeline.py $(addprefix tests/runtime/video/test_,media_open.py color.py input.py output.py \
	timestamps.py damage.py damage_by_container.py damage_fuzz.py)

test-newest: $(INSTALLED)
	$(MAKE) --no-print-directory --jobs=2 $(NEWEST_INSTALLED) made-before
	MADE_BEFORE=$(CURDIR)/$(MADE_BEFORE) PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 \
		$(NEWEST_BIN)/python -m pytest --numprocesses auto --dist loadfile $(NEWEST_TESTS)

made-before: $(INSTALLED)
	$(BIN)/python -m tests.newest.make_bundle $(MADE_BEFORE)

$(NEWEST_INSTALLED): pyproject.toml .ci/without_torch.py
	test -n "$(PYTHON_NEWEST)" || { echo "no Python 3.12 or newer found: make test-newest PYTHON_NEWEST=/path/to/python" >&2; exit 1; }
	$(PYTHON_NEWEST) -m venv --clear $(NEWEST_VENV)
	$(NEWEST_BIN)/python .ci/without_torch.py > $(NEWEST_VENV)/requirements.txt
	$(NEWEST_BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager -r $(NEWEST_VENV)/requirements.txt
	$(NEWEST_BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# What a new user does in the first hour, in clean environments of the built wheel: minutes, so not in `make test`.
first-hour: $(INSTALLED)
	$(BIN)/python .ci/pip_install.py --constraint constraints.txt --editable '.[first-hour]'
	OMP_NUM_THREADS= $(BIN)/python -m pytest -x --durations=0 $(addprefix tests/first_hour/,hour.py hour_without_torch.py pages.py)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed/flashvsr_trt
	cp -R flashvsr_trt/. model kernels plugins export engines runtime build/typed/flashvsr_trt
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without builders of engines: torch, PyAV and what draws the picture.
DEMO_INSTALLED := $(VENV)/.demo_installed

$(DEMO_INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python .ci/pip_install.py --constraint constraints.txt --editable '.[demo]'
	touch $@

demo: $(DEMO_INSTALLED)
	$(BIN)/python -m bench.demo

# make engines PRESET=sparse-2.0 SIZE=1280x768 SCALE=2 WEIGHTS=random FLAVOUR=rtx ARCH=8.9
# make engines PRESET=sparse-2.0 TILE=768x768: one set for frames of every size
PRESET ?= sparse-2.0
SIZE ?= 1280x768
SCALE ?= 2
FLAVOUR ?= auto

# The flavour's extra, and all behind it, is installed first where a part of it is missing.
engines: $(INSTALLED)
	missing=$$($(BIN)/python -m flashvsr_trt.engines.readiness $(FLAVOUR) $(ARCH)) && \
		if test -n "$$missing"; then $(BIN)/python -m pip install --editable ".[$$missing]"; fi
	$(BIN)/flashvsr-trt engines build --preset $(PRESET) $(if $(TILE),--tile $(TILE),--size $(SIZE) --scale $(SCALE)) \
		--flavour $(FLAVOUR) \
		$(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(ARCH),--arch $(ARCH)) $(ENGINE_OPTIONS)

bench: $(INSTALLED)
	$(BIN)/python -m bench.cpu

# This checkout beside commit BASE (docs/gate.md); GATE_OPTIONS="--markdown gate.md". The part for every machine has
# no GPU's cases and times nothing.
gate: $(INSTALLED)
	$(BIN)/flashvsr-trt gate $(if $(BASE),--base $(BASE)) $(GATE_CASES) $(GATE_OPTIONS)

gate-cpu: GATE_CASES := --no-gpu --case 'counts/*' --case 'parity/*' --case 'memory/*'
gate-cpu: gate

gate-selftest: $(INSTALLED)
	$(BIN)/python -m bench.gate.selftest
	$(BIN)/python -m bench.gate.selftest --times 20

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
