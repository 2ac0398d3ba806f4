# Every target works on a fresh clone: it makes the virtual environment it needs. PYTHON picks the interpreter.
PYTHON ?= python3
VENV ?= .venv
DEVKIT_VENV ?= .venv-devkit
OLDEST_VENV ?= .venv-oldest
DEMO_FLAGS ?=
TEST_PROCESSES ?= 2
PIP_FLAGS = --disable-pip-version-check --quiet

.PHONY: demo test test-oldest check format devkit-parity clean
.DELETE_ON_ERROR:

# A stamp per set of extras: installing again is needed only when the requirements change.
$(VENV)/installed-%: pyproject.toml constraints.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) ($*) ..."
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[view,$*]'
	@touch $@

demo: $(VENV)/installed-view
	$(VENV)/bin/occlift demo $(DEMO_FLAGS)

# Files side by side, with one thread each where a test does not ask for more; threads that wait must sleep then, because
# two that spin on each other's core are eight times slower.
test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations=15

# The oldest versions that pyproject.toml allows, and the tests of teachers, which lean on other libraries most. What those
# versions warn of is theirs. torch comes with CUDA here: some gigabytes.
$(OLDEST_VENV)/installed: pyproject.toml tests/oldest_versions.py
	@test -x $(OLDEST_VENV)/bin/python || $(PYTHON) -m venv $(OLDEST_VENV)
	@$(OLDEST_VENV)/bin/python tests/oldest_versions.py pyproject.toml > $(OLDEST_VENV)/oldest.txt
	@echo "Installing the oldest versions into $(OLDEST_VENV) ..."
	@$(OLDEST_VENV)/bin/python -m pip install $(PIP_FLAGS) -c $(OLDEST_VENV)/oldest.txt -e '.[teachers]' beartype hypothesis onnx pytest
	@touch $@

test-oldest: $(OLDEST_VENV)/installed
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/python -m pytest -o filterwarnings=default tests/teachers

check: $(VENV)/installed-check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/installed-check
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# nuscenes-devkit pins numpy<2, so it lives in an environment of its own and reads what ours wrote down.
$(DEVKIT_VENV)/installed:
	@test -x $(DEVKIT_VENV)/bin/python || $(PYTHON) -m venv $(DEVKIT_VENV)
	@echo "Installing nuscenes-devkit into $(DEVKIT_VENV) ..."
	@$(DEVKIT_VENV)/bin/python -m pip install $(PIP_FLAGS) nuscenes-devkit==1.2.0
	@touch $@

devkit-parity: $(VENV)/installed-view $(DEVKIT_VENV)/installed
	$(VENV)/bin/occlift town build/devkit-town --scenes 2 --frames 4 --image-height 96 --image-width 176
	$(VENV)/bin/python tests/devkit/dump_reader.py build/devkit-town build/devkit-town.json
	$(DEVKIT_VENV)/bin/python tests/devkit/compare_devkit.py build/devkit-town build/devkit-town.json --points-in-boxes exact
ifdef OCCLIFT_REAL_FRAME
	$(VENV)/bin/python tests/devkit/dump_reader.py $(OCCLIFT_REAL_FRAME) build/real-frame.json
	$(DEVKIT_VENV)/bin/python tests/devkit/compare_devkit.py $(OCCLIFT_REAL_FRAME) build/real-frame.json --points-in-boxes report --without-maps
endif

clean:
	rm -rf build runs $(VENV) $(DEVKIT_VENV) $(OLDEST_VENV)
