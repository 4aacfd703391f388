# `make demo` and `make test` work on a fresh machine with Python 3.11, cargo, node and make.
SHELL := /bin/bash
PYTHON ?= python3
# uv is brought when it is missing, into a folder of the checkout.
UV := $(shell command -v uv || echo .tools/uv/bin/uv)
FAULTS ?= kill,pause
PURCHASES ?= 69659
SEED ?= 1
# Tests that run at a time: many wait for a process to die or an engine to start.
JOBS ?= 2
BIN := .venv/bin
PAGE := src/counterfoil/console/static/index.html

.PHONY: setup extras demo test test-gateway check browser nginx cache-suite fuzz plots clean
.PHONY: bench-gateway bench-memory bench-pressure bench-shedding bench-routes bench-timing bench-limits bench-cache
.PHONY: bench-events bench-outbox bench-membership bench-parallel bench-sourcing bench-coordination bench-engines

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or later is missing: install python3"; exit 1; }
	$(PYTHON) -m venv .tools/uv && .tools/uv/bin/pip install --quiet uv

# The console's page, built anew when its sources have changed.
$(PAGE): $(shell git ls-files console 2>/dev/null)
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or later"; exit 1; }
	cd console && npm ci --silent --no-audit --no-fund && npm run --silent build
	@touch $@

setup: $(UV) $(PAGE)
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust with rustup"; exit 1; }
	$(UV) sync --quiet --frozen --inexact

# The clients of the real engines as well: what checks and tests need, and the demo doesn't.
extras: setup
	$(UV) sync --quiet --frozen --all-extras

demo: setup
	rm -rf .counterfoil/demo
	$(BIN)/counterfoil prove examples/shop --purchases $(PURCHASES) --seed $(SEED) --faults $(FAULTS) \
		--fault-number 30 --state .counterfoil/demo

check: extras
	$(BIN)/ruff format --check src tests examples bench
	$(BIN)/ruff check src tests examples bench
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright
	$(BIN)/pyright -p tests
	cargo fmt --check
	cargo clippy --quiet --workspace -- -D warnings
	cargo fmt --check --manifest-path bench/h3load/Cargo.toml
	cargo clippy --quiet --locked --manifest-path bench/h3load/Cargo.toml --target-dir target/h3load -- -D warnings
	cd console && npm run --silent lint

# A browser is the one thing that tests need and no package registry has.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
		&& apt-get install -y -qq --no-install-recommends chromium; } \
		|| { echo "chromium is missing: apt-get install chromium"; exit 1; }

# The second backend of the tests against smuggled requests, which say so where it is missing.
nginx:
	@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
		&& apt-get install -y -qq --no-install-recommends nginx-light; } \
		|| echo "nginx is missing, and tests that need it are skipped: apt-get install nginx-light"

test: check browser nginx cache-suite
	cd console && npm run --silent test
	cargo test --quiet --workspace --exclude counterfoil-python
	RUSTFLAGS="--cfg loom" cargo test --quiet -p counterfoil-policy --test interleavings --target-dir target/loom
	$(BIN)/pytest -n $(JOBS) --dist worksteal

# The gateway alone: its policies and data plane in Rust, and both from outside.
test-gateway: setup nginx cache-suite
	cargo test --quiet -p counterfoil-policy -p counterfoil-gateway
	RUSTFLAGS="--cfg loom" cargo test --quiet -p counterfoil-policy --test interleavings --target-dir target/loom
	$(BIN)/pytest -n $(JOBS) --dist worksteal tests/gateway

# Beside nginx, HAProxy and Envoy; says what is missing and how to get it. One case alone, the others' figures
# kept: `.venv/bin/python bench/gateway.py --cases http3`.
bench-gateway: setup
	$(BIN)/python bench/gateway.py

# What an idle connection holds of memory, beside nginx, HAProxy and Envoy.
bench-memory: setup
	$(BIN)/python bench/gateway_memory.py

# Slow readers of 1 GiB, 200 reloads in a minute, and hostile neighbours: what that costs in memory, and others in latency.
bench-pressure: setup
	$(BIN)/python bench/gateway_pressure.py

# Both engines, and etcd's JSON gateway.
bench-coordination: setup
	$(BIN)/python bench/coordination.py

# Aggregates loaded after a thousand events and after a million.
bench-sourcing: setup
	$(BIN)/python bench/sourcing.py

# Work that waits, in parallel beside one by one; on Kafka beside Pyrallel Consumer.
bench-parallel: extras
	$(BIN)/python bench/parallel.py

# Limits shared by Redis beside limits of one gateway alone.
bench-limits: setup
	$(BIN)/python bench/limits.py

# The public HTTP cache suite, beside nginx.
bench-cache: setup cache-suite
	$(BIN)/python bench/cache.py

cache-suite: bench/cache-suite/node_modules/.package-lock.json
bench/cache-suite/node_modules/.package-lock.json: bench/cache-suite/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or later"; exit 1; }
	cd bench/cache-suite && npm ci --silent --no-audit --no-fund
	@touch $@

# The whole shop on every combination of engines.
bench-engines: extras
	$(BIN)/python bench/engines.py

# Whether comparing a secret tells by its duration how much of a guess was right.
bench-timing:
	CARGO_PROFILE_RELEASE_LTO=off cargo test --quiet --release -p counterfoil-gateway --lib secret:: -- \
		--ignored --nocapture

# Pipelines and ledger beside Quix Streams, plain loops and PostgreSQL.
bench-events: extras
	$(BIN)/python bench/events.py

# Application, relay and PostgreSQL killed in turn; rows and events compared. Then commits counted.
bench-outbox: extras
	$(BIN)/python bench/outbox.py

# Four processes of a pipeline restarted one after the other, beside consumers in a group.
bench-membership: extras
	$(BIN)/python bench/membership.py

# Tiers under overload, on the real gateway.
bench-shedding: setup
	$(BIN)/python bench/shedding.py

# The plots of the policies in docs, drawn from the policies themselves.
plots:
	cargo run --quiet -p counterfoil-policy --example plots -- docs

# What finding a route costs, among ten and among a thousand.
bench-routes:
	CARGO_PROFILE_RELEASE_LTO=off cargo test --quiet --release -p counterfoil-gateway --lib routing:: -- \
		--ignored --nocapture

# Readers of bytes that others choose, by coverage. The corpora are small, and kept.
FUZZED := answer token keys path announcement
SECONDS ?= 600

fuzz:
	@cargo +nightly --version >/dev/null 2>&1 || { echo "nightly Rust is missing: rustup toolchain install nightly"; exit 1; }
	@command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz"; exit 1; }
	for target in $(FUZZED); do mkdir -p fuzz/found/$$target; cargo +nightly fuzz run $$target fuzz/found/$$target fuzz/corpus/$$target -- \
		-max_total_time=$$(($(SECONDS) / $(words $(FUZZED)))) || exit 1; done

clean:
	rm -rf .venv .tools target console/node_modules bench/cache-suite/node_modules $(dir $(PAGE))
