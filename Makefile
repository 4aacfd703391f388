# `make demo` and `make test` work on a fresh machine with Python 3.11, cargo, node and make.
SHELL := /bin/bash
PYTHON ?= python3
# uv is brought when it is missing, into a folder of the checkout.
UV := $(shell command -v uv || echo .tools/uv/bin/uv)
FAULTS ?= kill,pause
PURCHASES ?= 69659
SEED ?= 1
BIN := .venv/bin

.PHONY: setup demo test check clean

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or later is missing: install python3"; exit 1; }
	$(PYTHON) -m venv .tools/uv && .tools/uv/bin/pip install --quiet uv

setup: $(UV)
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust with rustup"; exit 1; }
	$(UV) sync --quiet --frozen

demo: setup
	rm -rf .counterfoil/demo
	$(BIN)/counterfoil prove examples/shop --purchases $(PURCHASES) --seed $(SEED) --faults $(FAULTS) \
		--fault-number 30 --state .counterfoil/demo

check: setup
	$(BIN)/ruff format --check src tests examples
	$(BIN)/ruff check src tests examples
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright
	cargo fmt --check
	cargo clippy --quiet --workspace -- -D warnings

test: setup check
	cargo test --quiet --workspace --exclude counterfoil-python
	$(BIN)/pytest

clean:
	rm -rf .venv .tools target node_modules
