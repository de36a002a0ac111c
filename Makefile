# Two commands do everything on a machine with Python: `make demo` runs the main job, `make test`
# passes the tests. Both work in a virtual environment of their own, which they make.

PYTHON ?= python3
VENV ?= .venv
# A container image archive to send; without one the demo makes one.
IMAGE ?=
# More options for the benchmark, as in `make bench BENCH="--rows raw-4 --repetitions 5"`.
BENCH ?=
# More options for the soak.
SOAK ?=
# More options for the attacks.
HOSTILE ?=
# More words for pytest, as in `make test PYTEST="-k pacing"`.
PYTEST ?=
# For each target of the fuzzer.
SECONDS ?= 60

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-large check-crowd screenshots soak hostile check fuzz bench bench-quick clean

# A real server and three real clients, as processes of their own, over loopback multicast.
demo: $(VENV)/installed
	$(BIN)/python scripts/demo.py $(if $(IMAGE),"$(IMAGE)")

# The whole suite, and its unit tests once more as Twisted's own runner sees them. What starts
# processes is no unit test, and is run once.
test: $(VENV)/installed-test
	$(BIN)/python -m pytest $(PYTEST)
	$(BIN)/python -m twisted.trial --reporter=text --temp-directory $(VENV)/trial \
		$$(grep -LE '^(import|from) (subprocess|pytest)' tests/test_*.py)

# The bound on memory once more with 1 GiB, to four hosts that lose 1 % each. As root; takes 5 GiB of
# the folder for temporary files while it runs.
test-large: $(VENV)/installed-test
	KOLLACAST_LARGE_IMAGE_MIB=1024 $(BIN)/python -m pytest tests/test_hosts.py -k memory

# The benchmark's simulated hosts beside real clients, as root, on a quiet machine.
check-crowd: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/crowd_beside_clients.py

# Pictures of the status page for docs/reading.md, as root; wants chromium and chromium-driver.
screenshots: $(VENV)/installed-test $(VENV)/installed-bench
	PYTHONPATH=. $(BIN)/python scripts/screenshots.py

# Transfers back to back under random faults, for half an hour, as root; ends with the figures. More
# options as in `make soak SOAK="--minutes 120 --report figures.json"`.
soak: $(VENV)/installed-test
	PYTHONPATH=. $(BIN)/python scripts/soak.py $(SOAK)

# What strangers in the network cost a transfer at 1 Gbit/s, attack by attack, as root, on a quiet
# machine. More options as in `make hostile HOSTILE="--only junk --turns 5"`.
hostile: $(VENV)/installed-test
	$(BIN)/python -m tests.hostile $(HOSTILE)

# What the linters, the formatter and the type checker say. ansible-lint looks for the collection's
# roles where collections are installed.
check: $(VENV)/installed-dev $(VENV)/installed-ansible
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/ansible-galaxy collection install --force -p $(VENV)/collections ./ansible
	bin=$$(realpath $(BIN)) && collections=$$(realpath $(VENV)/collections) && cd ansible && \
		PATH="$$bin:$$PATH" ANSIBLE_COLLECTIONS_PATH="$$collections" ansible-lint

# A search for bytes that break what reads from the network; fuzz/__init__.py says more.
fuzz: $(VENV)/installed-fuzz
	$(BIN)/python -m fuzz --seconds $(SECONDS)

# The comparison with udpcast, uftp and unicast, as root; bench/README.md says what it needs. The
# quick one proves that every copy arrives whole, and nothing about speed.
bench: $(VENV)/installed-bench
	$(BIN)/python -m bench $(BENCH)

bench-quick: $(VENV)/installed-bench
	$(BIN)/python -m bench --quick $(BENCH)

# Kolla Ansible, the newest that the Python of this machine's system takes, for the test that runs it.
# That Python has the bindings of D-Bus which Kolla Ansible wants on a host; collections are in the
# package `ansible`.
SYSTEM_PYTHON ?= /usr/bin/python3
$(VENV)/kolla/installed: | $(VENV)/bin/python
	$(SYSTEM_PYTHON) -m venv --system-site-packages $(VENV)/kolla
	$(VENV)/kolla/bin/python -m pip --disable-pip-version-check --quiet install --no-compile \
		kolla-ansible ansible docker podman
	@touch $@

clean:
	rm -rf $(VENV) .demo .fuzz build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed; name one as in: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -c 'import ensurepip' || { echo "The venv module is incomplete; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e .
	@touch $@

$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[$*]'
	@touch $@
