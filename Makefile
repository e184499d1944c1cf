# Everything a fresh Debian 12 machine needs is installed from here; `make help` lists the targets.
SHELL := /bin/sh
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIRE := packaging/setup/require
SOURCES := $(shell find worker/src sandbox ipc policies -name '*.rs' -o -name '*.py')

.PHONY: help
help:
	@echo "make build       virtual environment and worker: .venv/bin/virtiofs-sandbox, .venv/bin/virtiofs-worker"
	@echo "make install     puts it in place: DESTDIR= PREFIX=/usr/local; make uninstall takes it away"
	@echo "make demo        a real guest on a share, here and now (lists what it installs and asks first)"
	@echo "make test        lint and all tests but the slow ones; what continuous integration runs"
	@echo "make test-slow   the rest: minutes long, installs a Debian below build/"
	@echo "make lint        ruff, mypy, rustfmt, clippy"
	@echo "make docs        the pages that are made from the code"
	@echo "make bench       figures: connect to INIT, memory, speed beside stock virtiofsd"
	@echo "make figures     what a supervisor of 1, 50 and 200 shares takes at rest"
	@echo "make soak        200 shares under one serve for ten minutes, and everything that can happen to them (SECONDS=, SEED=)"
	@echo "make fresh       the demo in an empty Debian 12, from the last commit"
	@echo "make fuzz        each parser of the worker under libFuzzer for a minute"
	@echo "make fuzz-policy the loader of policy files under libFuzzer for a minute"
	@echo "make escape-table  what a compromised worker tries, run, into docs/escape-table.md"
	@echo "make clean       removes build/, target/ and .venv/"

.PHONY: build
build: $(VENV)/.built

.PHONY: packages-build
packages-build:
	@$(REQUIRE) build

# The packages come first, but their check (a second's work, and never a file) must not make anything else out of date.
$(VENV)/.venv: | packages-build
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

$(VENV)/.built: $(VENV)/.venv pyproject.toml setup.py Cargo.toml Cargo.lock worker/Cargo.toml $(SOURCES) | packages-build
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --editable '.[dev]' --config-settings editable_mode=strict
	rm -rf .mypy_cache  # it remembers which modules were not there
	touch $@

# Only staging builds and needs a network; so as a user: make stage && sudo make install PREFIX=/usr
PREFIX ?= /usr/local
# What runs the installed command: not the virtual environment's.
INSTALL_PYTHON ?= /usr/bin/python3
build/stage/.made: $(VENV)/.built packaging/stage
	packaging/stage $(INSTALL_PYTHON)
	touch $@

.PHONY: stage
stage: build/stage/.made

.PHONY: install
install: build/stage/.made
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' packaging/install put

.PHONY: uninstall
uninstall:
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' packaging/install remove

# Programs that guests are made of: installed packages, and a kernel below build/.
.PHONY: guests
guests:
	@$(REQUIRE) uml qemu tools
	@packaging/setup/guest-kernel

# Stock virtiofsd, which serves shares in our jail and beside which ours is measured. Debian 12 has none of its own.
.PHONY: peer
peer:
	@packaging/setup/fetch trixie build/peer virtiofsd libc6 libcap-ng0 libgcc-s1 libseccomp2 || \
	    echo "make: stock virtiofsd could not be fetched; the tests with it will be skipped and say so" >&2

.PHONY: demo
demo:
	@packaging/setup/confirm build uml
	@$(REQUIRE) build uml
	@$(MAKE) --no-print-directory build
	@command -v linux.uml >/dev/null || $(MAKE) --no-print-directory guests
	@$(BIN)/python -m tests.guest.demo

# Pages made from the code.
.PHONY: docs
docs: build
	$(BIN)/python docs/commands.py
	$(BIN)/python docs/syscalls.py

.PHONY: lint
lint: build
	@$(REQUIRE) lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	cargo fmt --check
	cargo clippy --quiet --locked --all-targets -- -D warnings

.PHONY: test
test: lint guests peer build/stage/.made
	@$(REQUIRE) callers disks libvirt systemd
	cargo test --quiet --locked
	$(BIN)/pytest -m 'not slow'

.PHONY: test-slow
test-slow: build guests peer build/stage/.made
	@$(REQUIRE) disks libvirt fresh
	@packaging/setup/newer-libvirt
	@packaging/setup/service-manager
	$(BIN)/pytest -m slow

.PHONY: fresh
fresh:
	@$(REQUIRE) fresh
	@packaging/setup/fresh demo

.PHONY: clean
clean:
	rm -rf build target $(VENV)

# Figures of this machine, beside stock virtiofsd (Debian 13's, unpacked below build/ with its libraries).
.PHONY: bench
bench: build peer
	cargo build --quiet --locked --release --package vhost-load
	$(BIN)/python -m tests.bench.run

# The table of docs/figures.md.
.PHONY: figures
figures: build
	$(BIN)/python -m tests.bench.rest

# SECONDS, SHARES and SEED may be set; the seed of a run is printed first.
.PHONY: soak
soak: build
	$(BIN)/python -m tests.soak.run --shares $(or $(SHARES),200) --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

# What a compromised worker tries and what stops it, run and written into docs/escape-table.md (as root).
.PHONY: escape-table
escape-table: build
	$(BIN)/python -m tests.escape.table

# Fuzzing with rustc's own coverage; found inputs stay in build/fuzz/corpus. TARGET names one, SECONDS the time of each (60).
TARGET ?= control_message configuration vhost_user_message vring patterns fuse_request
FUZZ_SECONDS = $(or $(SECONDS),60)
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
.PHONY: fuzz
fuzz:
	@$(REQUIRE) build fuzz
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --quiet --release --manifest-path worker/fuzz/Cargo.toml \
	    --target x86_64-unknown-linux-gnu --target-dir build/fuzz/target
	for target in $(TARGET); do mkdir -p build/fuzz/corpus/$$target && \
	    tests/guard.py --work build/fuzz -- build/fuzz/target/x86_64-unknown-linux-gnu/release/$$target \
	    -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/ build/fuzz/corpus/$$target || exit 1; done

# The same for policy files, in Python: atheris is libFuzzer with the interpreter's own coverage.
.PHONY: fuzz-policy
fuzz-policy: build
	$(BIN)/pip install --quiet atheris
	mkdir -p build/fuzz/corpus/policy && cp policies/examples/*.toml build/fuzz/corpus/policy
	tests/guard.py --work build/fuzz -- $(BIN)/python -m tests.fuzz.policy build/fuzz/policy \
	    -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/ build/fuzz/corpus/policy
