# Everything a fresh Debian 12 machine needs is installed from here. `make help` lists the targets.
SHELL := /bin/sh
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help
help:
	@echo "make build   venv and worker        make demo   a real guest on a share, here and now"
	@echo "make test    lint and all tests     make lint   ruff, mypy, clippy, rustfmt"

.PHONY: build
build: $(VENV)/.built

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

$(VENV)/.built: $(VENV)/.venv pyproject.toml setup.py Cargo.toml Cargo.lock worker/Cargo.toml $(shell find worker/src sandbox ipc policies -name '*.rs' -o -name '*.py')
	$(BIN)/pip install --quiet --editable '.[dev]' --config-settings editable_mode=strict
	touch $@
