# Holdfast: `make run` starts a server sealed by a SoftHSM token, `make test` passes all tests.
# Everything that is needed is installed by `make setup`, on Debian 12 as root or with sudo.

SHELL := /bin/bash
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
BIN := $(TARGET)/release/holdfast
CONFORMANCE ?= ../shared/conformance
# Whole-system tests wait for servers, elections and clocks most of their time.
SYSTEM_THREADS ?= $(shell echo $$((2 * $$(nproc))))
# Tests that the second pass, on raft, leaves out: clusters, which are on raft anyway; tests that make no store of a site;
# those of devices that hang, and of further databases, where the store is not what they are about.
ONCE := chaos:: cluster:: field_log::raft migrate:: metrics:: prometheus:: in_a_cluster cli_page:: openapi:: \
  completion:: make_run:: start::dev:: start::tls:: seal_hsm::helper:: seal_hsm::modules:: devices::blinking:: \
  databases::hanging:: databases::mariadb:: databases::redis:: databases::influxdb::
export CARGO_TARGET_DIR := $(TARGET)

.PHONY: setup build run test unit system system-on-raft conformance bench crash chaos cli-page fmt lint audit clean

setup:
	@scripts/setup

build: setup
	$(CARGO) build --release --locked -p holdfast-cli -p holdfast-tpm
	@scripts/allow-lock $(BIN) $(TARGET)/release/holdfast-tpm-helper

run: build
	@scripts/run $(BIN)

# The release binary is made beside the unit tests: its last step keeps one core busy for minutes, and tests wait a lot.
test: setup
	@$(MAKE) --no-print-directory -j2 unit build
	@$(MAKE) --no-print-directory system

unit: setup
	$(CARGO) test --locked --workspace --exclude holdfast-tests

system: build
	$(CARGO) test --locked -p holdfast-tests --no-run
	HOLDFAST_BIN=$(BIN) scripts/system-tests --test-threads=$(SYSTEM_THREADS)
	@$(MAKE) --no-print-directory system-on-raft

# The same tests with `storage "raft"` in place of `file`. A test that fails says on which storage it ran.
system-on-raft: build
	HOLDFAST_BIN=$(BIN) HOLDFAST_TEST_STORAGE=raft scripts/system-tests --test-threads=$(SYSTEM_THREADS) \
	  $(addprefix --skip ,$(ONCE))

# Writes the part of docs/cli.md that is made from the commands' own help.
cli-page: build
	HOLDFAST_WRITE_DOCS=1 HOLDFAST_BIN=$(BIN) $(CARGO) test --locked -p holdfast-tests the_cli_page_says_what

conformance: build
	@scripts/conformance $(BIN) $(CONFORMANCE)

bench: build
	@scripts/bench $(BIN) $(BENCH)

crash: setup
	HOLDFAST_CRASH_RUNS=5000 $(CARGO) test --locked --release -p holdfast-storage crash

# Ten thousand simulated clusters, then real ones under faults for so long, in another order each time. A run that failed has said its seed.
chaos: export HOLDFAST_BIN := $(BIN)
chaos: export HOLDFAST_CHAOS_MINUTES ?= 10
chaos: export HOLDFAST_CHAOS_SEED ?= $(shell date +%s)
chaos: export HOLDFAST_SIM_SEEDS ?= 10000
chaos: export HOLDFAST_SIM_FROM ?= $(HOLDFAST_CHAOS_SEED)
chaos: build
	$(CARGO) test --locked --release -p holdfast-cluster sim::seeds::whatever -- --nocapture
	$(CARGO) test --locked -p holdfast-tests chaos:: -- --nocapture

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

audit: setup
	@scripts/audit

clean:
	rm -rf $(TARGET) run
