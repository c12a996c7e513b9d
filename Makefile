# `make demo` and `make test` set everything up by themselves; they need Python 3.11 and a package index.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
EXTRAS := mediapipe,demo,analyse,record,mqtt,fleet,training,test,check
# Every version with the hashes of its files; `make setup LOCK=` takes the newest ones instead.
LOCK ?= deploy/lock/development.txt
TORCH ?= 2.13.0

.PHONY: help setup demo test check format lock deb clean
help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with streamer and streamer-train in it, and fetch a face detector
$(STAMP): pyproject.toml $(wildcard $(LOCK))
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit(f"make: needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}; name another one with PYTHON=…")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install -qq --upgrade pip
ifneq ($(LOCK),)
	@$(BIN)/python -m pip install -qq --no-deps --require-hashes -r $(LOCK)
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
endif
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install -qq torch==$(TORCH)
ifeq ($(LOCK),)
	@$(BIN)/python -m pip install -qq --editable '.[$(EXTRAS)]'
endif
	@$(BIN)/streamer assets install
	@touch $@

demo: setup ## the main job with no camera and no GPU; open the address that it prints
	@exec $(BIN)/streamer demo

test: setup ## all tests; those that need a GPU skip
	@$(BIN)/python -m pytest -q

check: setup ## format, lint, types, tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory test

format: setup ## rewrite the sources in house style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# torch stays out of it: which build is right depends on the machine, see TORCH.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --custom-compile-command 'make lock' --no-emit-package torch $(UPGRADE) pyproject.toml
comma := ,
lock: ## write deploy/lock/ after a change of pyproject.toml; UPGRADE=--upgrade for newer versions
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -qq uv; }
	@$(COMPILE) $(patsubst %,--extra %,$(subst $(comma), ,$(EXTRAS))) -o deploy/lock/development.txt
	@$(COMPILE) --extra record --extra mqtt -c deploy/lock/development.txt -o deploy/lock/service.txt
	@echo 'setuptools>=77' | $(subst pyproject.toml,-,$(COMPILE)) -c deploy/lock/development.txt -o deploy/lock/build.txt

deb: setup ## a Debian package of the service in dist/; MIRROR=FOLDER has the face detector's file
	@systemd/build-deb.sh $(BIN)/python $(MIRROR)

clean: ## remove .venv and everything that was built
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
