# The README's commands. `make run` and `make test` need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?= reinforce --env CartPole-v1

# Tests start hundreds of Python processes; without cached bytecode, each would compile pgzoo again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-all unit coverage wheels test-new-plugins test-envpool test-ray test-wandb test-peers check audit sbom
.PHONY: fix docs bench bench-backends bench-device bench-peers bench-physics results results-offpolicy tournament curves
.PHONY: environments faults simulate soak fuzz lock clean

run: $(VENV)/.ready
	$(BIN)/pgzoo run $(ARGS)

# Processes share the tests, file by file, in the order that tests/conftest.py gives them. There are more of them than
# cores, because many tests wait for processes of their own.
PYTEST = $(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder
UNIT = algorithms config envs estimators ops policies training
NOT_UNIT = training/test_compiling.py training/test_device.py envs/test_compiled.py envs/test_what_environments_return.py

test: $(VENV)/.ready
	$(PYTEST) -m "not slow" $(ARGS_TEST)

test-all: $(VENV)/.ready
	$(PYTEST) $(ARGS_TEST)

# The loop to work in: tests that start no process, compile nothing, and don't train until something is learned.
unit: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 -m "not slow and not learning" $(UNIT:%=tests/%) $(NOT_UNIT:%=--ignore tests/%) $(ARGS_TEST)

# `make test` with coverage, as a separate target because measuring slows the tests down.
coverage: $(VENV)/.ready
	$(PYTEST) -m "not slow" --cov --cov-report term $(ARGS_TEST)

# Builds pgzoo and its plugins, and installs them where nothing else is. The plugins that need envpool, ray or wandb, which
# are large, are built only.
wheels: $(VENV)/.ready
	rm -rf dist build plugins/*/build $(VENV)-wheels
	for place in . plugins/*; do $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist $$place || exit 1; done
	$(PYTHON) -m venv $(VENV)-wheels
	$(VENV)-wheels/bin/python -m pip install --quiet -c constraints.txt $$(ls dist/*.whl | grep -v -e envpool -e pgzoo_ray -e wandb)
	cd $(VENV)-wheels && bin/pgzoo --help && bin/pgzoo algorithms && bin/pgzoo plugins
	rm -r $(VENV)-wheels

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python docs/generate.py --check
	PYTHONPATH=docs $(BIN)/zensical build --strict

# Known vulnerabilities of the pinned versions, asked from PyPI; a version that PyPI does not know is an error.
audit: $(VENV)-tools/.ready
	$(VENV)-tools/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

# A software bill of materials: what `make wheels` built, and everything that a plain installation of it brings.
sbom: $(VENV)-tools/.ready
	$(PYTHON) -m venv --clear $(VENV)-sbom
	$(VENV)-sbom/bin/python -m pip install --quiet -c constraints.txt dist/pgzoo-*.whl
	$(VENV)-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible \
	  -o dist/pgzoo.cdx.json $(VENV)-sbom/bin/python
	rm -r $(VENV)-sbom

TOOLS = cyclonedx-bom==7.5.0 pip-audit==2.10.1
$(VENV)-tools/.ready: Makefile
	$(PYTHON) -m venv --clear $(VENV)-tools
	$(VENV)-tools/bin/python -m pip install --quiet --disable-pip-version-check $(TOOLS)
	touch $@

fix: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site is written to build/site.
docs: $(VENV)/.ready
	$(BIN)/python docs/generate.py
	PYTHONPATH=docs $(BIN)/zensical build --strict --clean

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/guard.py
	$(BIN)/python benchmarks/run.py

bench-peers: $(VENV)/.ready
	$(BIN)/python benchmarks/performance.py $(ARGS_PEERS)

bench-device: $(VENV)/.ready
	$(BIN)/python benchmarks/device.py

# Box2D and MuJoCo rows need those packages: pip install -e '.[box2d,mujoco]'
results: $(VENV)/.ready
	$(BIN)/python benchmarks/results.py $(if $(ROW),--row '$(ROW)')

# The tables in the README of the plugin pgzoo-offpolicy, from the rows kept in its results.json
results-offpolicy: $(VENV)/.ready
	$(BIN)/python benchmarks/offpolicy.py $(if $(ROW),--row '$(ROW)')

# Takes days; `make tournament PIECE='ppo/*'` runs a part, and finished pieces are kept (docs/tournament.md).
PIECE ?= *
tournament: $(VENV)/.envpool
	set -f; $(BIN)/python benchmarks/tournament.py $(ARGS_TOURNAMENT) $(PIECE)

# The curves in docs/algorithms.md: those that are missing, or `make curves ALGORITHMS='ppo a2c'`.
curves: $(VENV)/.ready
	$(BIN)/python benchmarks/curves.py $(ALGORITHMS)

environments: $(VENV)/.ready
	$(BIN)/python benchmarks/environments.py $(if $(ROW),--only $(ROW))

faults: $(VENV)/.ready
	$(BIN)/python benchmarks/reliability.py

# Faults drawn from seeds, in a simulated world; `python benchmarks/simulate.py --seed N` plays one seed again.
HOURS ?= 24
simulate: $(VENV)/.ready
	$(BIN)/python benchmarks/simulate.py --hours $(HOURS)

# Memory and open files over long runs; the defaults take hours: make soak ARGS_SOAK='--steps 20000'
soak: $(VENV)/.ready
	$(BIN)/python benchmarks/soak.py $(ARGS_SOAK)

# The readers of files, fuzzed with Atheris, in a venv of its own that sees the packages of the other one.
MINUTES ?= 10
fuzz: $(VENV)-fuzz/.ready
	$(VENV)-fuzz/bin/python tests/fuzz/harness.py -max_total_time=$$(( $(MINUTES) * 60 ))

$(VENV)-fuzz/.ready: $(VENV)/.ready Makefile
	$(BIN)/python -m venv --clear $(VENV)-fuzz
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > $$($(VENV)-fuzz/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	$(VENV)-fuzz/bin/python -m pip install --quiet --disable-pip-version-check --no-deps atheris==3.0.0
	touch $@

# Installs exactly what constraints.txt names; made again when that or pyproject.toml changes.
$(VENV)/.ready: pyproject.toml constraints.txt $(foreach plugin,example offpolicy tensorboard,plugins/pgzoo-$(plugin)/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pgzoo needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[compiled,dev,onnx,sweep,video]' -e plugins/pgzoo-example -e plugins/pgzoo-offpolicy -e plugins/pgzoo-tensorboard
	touch $@

# What `pgzoo plugins new` writes is installed beside a wheel of pgzoo, checked, tested and trained.
test-new-plugins: $(VENV)/.ready
	$(BIN)/python -m pytest tests/cli/test_plugins_new.py $(ARGS_TEST)

# envpool and what it needs are 300 MB to download: installed and tested when asked for.
test-envpool: $(VENV)/.envpool
	$(BIN)/python -m pytest plugins/pgzoo-envpool

# ray is 75 MB to download and 240 MB on disk: installed and tested when asked for.
test-ray: $(VENV)/.ray
	$(BIN)/python -m pytest plugins/pgzoo-ray -m "not slow" $(ARGS_TEST)

$(VENV)/.ray: $(VENV)/.ready plugins/pgzoo-ray/pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e plugins/pgzoo-ray
	touch $@

# wandb and what it needs are 21 MB to download and 70 MB on disk: installed and tested when asked for.
test-wandb: $(VENV)/.ready plugins/pgzoo-wandb/pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e plugins/pgzoo-wandb
	$(BIN)/python -m pytest plugins/pgzoo-wandb $(ARGS_TEST)

# Compares losses, gradients and updates with those of other libraries (docs/peers.md), in a venv of their own.
PEERS = stable-baselines3==2.9.2 sb3-contrib==2.9.2 torchrl==0.14.1 skrl==2.1.1
test-peers: $(VENV)-peers/.ready
	$(VENV)-peers/bin/python -m pytest -W default tests/peers $(ARGS_TEST)

$(VENV)-peers/.ready: Makefile pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' $(PEERS)
	touch $@

bench-backends: $(VENV)/.envpool
	$(BIN)/python benchmarks/backends.py

bench-physics: $(VENV)/.envpool
	$(BIN)/python benchmarks/physics.py

$(VENV)/.envpool: $(VENV)/.ready plugins/pgzoo-envpool/pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[box2d,mujoco]' -e plugins/pgzoo-envpool
	touch $@

# Writes constraints.txt anew from what the lower bounds in pyproject.toml give today.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet -e '.[compiled,dev,video,onnx,sweep,box2d,mujoco]' -e plugins/pgzoo-tensorboard -e plugins/pgzoo-envpool -e plugins/pgzoo-ray -e plugins/pgzoo-wandb torch==2.13.0
	( echo '# Exact versions that the README'"'"'s commands install; pyproject.toml holds the lower bounds.'; \
	  echo '# Made by: make lock'; \
	  $(VENV)-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' ) > constraints.txt
	rm -r $(VENV)-lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
