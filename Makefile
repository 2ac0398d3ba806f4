# Every target works on a fresh clone: it makes the virtual environment it needs. PYTHON picks the interpreter.
PYTHON ?= python3
# Which build of torch: that of pip's own index (on Linux the one for CUDA, gigabytes; on macOS for CPU and Apple's GPU), or
# the address of an index that has another, for CPUs or another CUDA: pytorch.org says which, docs/install.md how much.
TORCH_INDEX ?=
VENV ?= .venv
DEVKIT_VENV ?= .venv-devkit
OLDEST_VENV ?= .venv-oldest
WHEEL_VENV ?= build/wheel-venv
DEMO_FLAGS ?=
TEST_PROCESSES ?= 2
PIP_FLAGS = --disable-pip-version-check --quiet

.PHONY: install demo test test-oldest check format docs wheel devkit-parity clean
.DELETE_ON_ERROR:

# The environment $(1), and torch by the constraints $(2) into it if an index of its own was named, without what it needs:
# that comes with all the rest.
define install_torch
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
@test -z "$(TORCH_INDEX)" || $(1)/bin/python -c 'import torch' 2> /dev/null || \
  $(1)/bin/python -m pip install $(PIP_FLAGS) -c $(2) --no-deps --index-url $(TORCH_INDEX) torch
endef

# A stamp per set of extras: installing again is needed only when the requirements change.
$(VENV)/installed-%: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) ($*) ..."
	$(call install_torch,$(VENV),constraints.txt)
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[$*]'
	@touch $@

# What the demo needs, and nothing is run.
install: $(VENV)/installed-demo

demo: $(VENV)/installed-demo
	$(VENV)/bin/occlift demo $(DEMO_FLAGS)

# Files side by side, with one thread each where a test does not ask for more; threads that wait must sleep then, because
# two that spin on each other's core are eight times slower.
test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations=15

# The oldest versions that pyproject.toml allows, and the tests of teachers, which lean on other libraries most. What those
# versions warn of is theirs.
$(OLDEST_VENV)/installed: pyproject.toml tests/oldest_versions.py
	@test -x $(OLDEST_VENV)/bin/python || $(PYTHON) -m venv $(OLDEST_VENV)
	@$(OLDEST_VENV)/bin/python tests/oldest_versions.py pyproject.toml > $(OLDEST_VENV)/oldest.txt
	@echo "Installing the oldest versions into $(OLDEST_VENV) ..."
	$(call install_torch,$(OLDEST_VENV),$(OLDEST_VENV)/oldest.txt)
	@$(OLDEST_VENV)/bin/python -m pip install $(PIP_FLAGS) -c $(OLDEST_VENV)/oldest.txt -e '.[teachers,train]' \
	  beartype hypothesis onnx pytest
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

# The site: docs/, and the API from the docstrings. --strict: a link that leads nowhere is an error.
docs: $(VENV)/installed-docs
	PATH=$(abspath $(VENV))/bin:$$PATH NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --site-dir build/site

# What a user gets: the wheel alone, in an environment without any extra, and from outside of the repository.
wheel:
	rm -rf build/bdist.* build/lib build/wheel $(WHEEL_VENV)
	$(call install_torch,$(WHEEL_VENV),constraints.txt)
	$(WHEEL_VENV)/bin/python -m pip wheel $(PIP_FLAGS) --no-deps --wheel-dir build/wheel .
	$(WHEEL_VENV)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt build/wheel/occlift-*.whl
	cd build/wheel && occlift=$$(realpath ../../$(WHEEL_VENV))/bin/occlift && $$occlift --help > help.txt && \
	  $$occlift town town --scenes 2 --frames 2 --image-height 48 --image-width 88 --maps && \
	  $$occlift label town --out labels --semantics oracle:perfect --depth oracle:perfect --frames 2 && \
	  find labels -name labels.npz | grep -q .

# nuscenes-devkit pins numpy<2, so it lives in an environment of its own and reads what ours wrote down.
$(DEVKIT_VENV)/installed:
	@test -x $(DEVKIT_VENV)/bin/python || $(PYTHON) -m venv $(DEVKIT_VENV)
	@echo "Installing nuscenes-devkit into $(DEVKIT_VENV) ..."
	@$(DEVKIT_VENV)/bin/python -m pip install $(PIP_FLAGS) nuscenes-devkit==1.2.0
	@touch $@

devkit-parity: $(VENV)/installed-demo $(DEVKIT_VENV)/installed
	$(VENV)/bin/occlift town build/devkit-town --scenes 2 --frames 4 --image-height 96 --image-width 176
	$(VENV)/bin/python tests/devkit/dump_reader.py build/devkit-town build/devkit-town.json
	$(DEVKIT_VENV)/bin/python tests/devkit/compare_devkit.py build/devkit-town build/devkit-town.json --points-in-boxes exact
ifdef OCCLIFT_REAL_FRAME
	$(VENV)/bin/python tests/devkit/dump_reader.py $(OCCLIFT_REAL_FRAME) build/real-frame.json
	$(DEVKIT_VENV)/bin/python tests/devkit/compare_devkit.py $(OCCLIFT_REAL_FRAME) build/real-frame.json --points-in-boxes report --without-maps
endif

clean:
	rm -rf build runs $(VENV) $(DEVKIT_VENV) $(OLDEST_VENV)
