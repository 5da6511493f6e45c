# `make test` is all a newcomer needs: it installs what the tests need, builds, and runs every test.
# `make verify` reads only and is the gate for a change; `make fix` writes.

CARGO ?= cargo

# Where cargo builds, for what is built outside the workspace.
TARGET := $(or $(CARGO_TARGET_DIR),target)

# The chaos harness, beside the nodes' binary of the same build.
JEPSEN := $(TARGET)/release/ovncp-jepsen run $(if $(SEED),--seed $(SEED))
WORKLOAD ?= register

.PHONY: help test setup verify fix lint docs bench compare dev chaos chaos-short soak chaos-clean chaos-build mutants

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: ## install the Debian packages that the tests need (asks sudo only where it is not root)
	@tests/setup.sh

test: setup ## build and run every test of the workspace
	$(CARGO) test --workspace --no-fail-fast
	$(CARGO) test -p ovncp-state -p ovncp-storage -p ovncp-raft --features ovncp-storage/sled,ovncp-raft/mutants --test sled --test mutants

verify: lint docs ## format, lints and docs; changes nothing

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

fix: ## format, apply clippy's suggestions, rewrite golden files and generated docs
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	UPDATE_GOLDENFILES=1 INSTA_UPDATE=always $(CARGO) test --workspace --no-fail-fast

bench: ## the log beside a minimal one, then the cluster over HTTP
	$(CARGO) bench --package ovncp-storage
	$(CARGO) run --release -- bench lock

compare: ## ovncp beside etcd, three nodes of each on this machine in one run (some minutes)
	$(CARGO) build --release
	CARGO_TARGET_DIR=$(TARGET)/compare $(CARGO) build --release --manifest-path tests/compare/Cargo.toml
	tests/compare/etcd.py

dev: ## three nodes on this machine
	$(CARGO) run --release -- dev

chaos-build: setup
	$(CARGO) build --release --bin ovncp
	$(CARGO) build --release --package ovncp-jepsen

chaos: chaos-build ## five minutes of all faults; WORKLOAD=lock for another workload, SEED=7 for the same again
	$(JEPSEN) --workload $(WORKLOAD) --time 300

chaos-short: ## a few faults for less than a minute, registers and locks, with what `make test` has built
	tests/chaos-short.sh $(TARGET)/debug/ovncp-jepsen register lock

chaos-clean: chaos-build ## 20 seeds of two minutes over all workloads, which must raise no alarm (three quarters of an hour)
	tests/chaos-clean.sh $(TARGET)/release/ovncp-jepsen

mutants: setup ## known bugs put into the nodes one by one: the harness must find each (half an hour)
	$(CARGO) build --profile chaos --features mutants --bin ovncp
	$(CARGO) build --profile chaos --package ovncp-jepsen
	$(TARGET)/chaos/ovncp-jepsen mutants

soak: chaos-build ## half an hour: five minutes of all faults for each of six workloads
	for workload in register lock fifo shared multi election; do \
		$(JEPSEN) --workload $$workload --time 300 || exit; \
	done
