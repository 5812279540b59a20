# The names that people and CI call. `make test` and `make demo` each work on a bare clone as the only command.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

ROLEGATE_CACHE ?= $(CURDIR)/.cache
export ROLEGATE_CACHE

TARGET := $(or $(CARGO_TARGET_DIR),target)

CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2
CARGO_AUDITABLE_VERSION := 0.7.7
# Tools are run once or twice: built quickly rather than well.
QUICK := CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
FUZZ_SECONDS ?= 60
# Names of fuzz targets; all if empty.
FUZZ_TARGETS ?=
# Flags of the end-to-end benchmarks, such as --output=json (`target/release/e2e --help`).
E2E_FLAGS ?=
FAIRNESS_FLAGS ?=
HERD_FLAGS ?=
REPORT_FLAGS ?=
# amd64 or arm64.
IMAGE_ARCH ?= $(patsubst aarch64,arm64,$(patsubst x86_64,amd64,$(shell uname -m)))
# Suites that run a second time, against a real API server, where one could be built.
REAL_API_SUITES ?= acceptance route sdk startup_taint world

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 20
	@command -v cargo >/dev/null || echo "Missing here: cargo (Rust 1.95 or newer)"

.PHONY: demo
demo: rust ## two pods, a real agent, and what each of them gets
	@tests/tools/setup.sh demo
	cargo build --workspace --bin rolegate --bin demo
	@export ROLEGATE_BIN="$$(realpath $(TARGET)/debug/rolegate)"; tests/tools/as-root.sh $(TARGET)/debug/demo

.PHONY: test
test: setup kube-binaries image-if-possible ## every test; what this machine lacks is skipped by name
	cargo build --workspace --bin rolegate
	@mkdir -p $(TARGET); status=0; \
	as_root=$$(tests/tools/as-root.sh echo tests/tools/as-root.sh || true); \
	$$as_root cargo test --workspace --no-fail-fast 2>&1 | tee $(TARGET)/test.log || status=$$?; \
	if [ -x $(ROLEGATE_CACHE)/kube/kube-apiserver ]; then \
	  echo "--- again, against a real API server: $(REAL_API_SUITES)"; \
	  ROLEGATE_TEST_API=real $$as_root cargo test --workspace --no-fail-fast \
	    $(addprefix --test ,$(REAL_API_SUITES)) 2>&1 | tee -a $(TARGET)/test.log || status=$$?; \
	fi; \
	awk -f tests/tools/summary.awk $(TARGET)/test.log || status=1; \
	exit $$status

.PHONY: test-cluster
test-cluster: setup kube-binaries image ## the image and the chart on a real cluster of two nodes, with progress shown
	@as_root=$$(tests/tools/as-root.sh echo tests/tools/as-root.sh || true); \
	$$as_root cargo test -p rolegate-tests --test cluster -- --nocapture --test-threads=1

.PHONY: check
check: rust deny ## format, lints, documentation, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	for script in tests/tools/*.sh tests/fuzz/run.sh deploy/image/*.sh .ci/run; do bash -n "$$script"; done
	@$(MAKE) --no-print-directory budget

.PHONY: budget
budget: rust ## what a request costs in instructions and allocations, held against benches/budget.yaml
	@command -v valgrind >/dev/null || { \
	  echo "SKIPPED budget: \`valgrind\` is not installed (Debian package valgrind): instructions are not counted"; exit 0; }; \
	cargo build --profile budget -p rolegate-benches --bin instructions; \
	status=0; tests/tools/as-root.sh $(TARGET)/budget/instructions --budget benches/budget.yaml || status=$$?; \
	if [ $$status = 77 ]; then echo "SKIPPED budget: no network namespaces here"; exit 0; fi; exit $$status

# Advisories are left out: they need a database from the network, and an old commit must stay buildable.
.PHONY: deny
deny: rust $(ROLEGATE_CACHE)/bin/cargo-deny ## licences, sources, duplicate and banned crates
	$(ROLEGATE_CACHE)/bin/cargo-deny -L error --locked check --hide-inclusion-graph bans licenses sources

.PHONY: bench
bench: rust ## the hot path step by step, the agent and other servers end to end, neighbours of hostile pods, a herd
	cargo bench --workspace
	cargo build --release -p rolegate -p rolegate-benches --bins
	@export ROLEGATE_BIN="$$(realpath $(TARGET)/release/rolegate)"; \
	tests/tools/as-root.sh $(TARGET)/release/e2e $(E2E_FLAGS); \
	tests/tools/as-root.sh $(TARGET)/release/fairness $(FAIRNESS_FLAGS); \
	tests/tools/as-root.sh $(TARGET)/release/herd $(HERD_FLAGS)

.PHONY: bench-report
bench-report: rust ## docs/performance.md: its tables and plots, measured anew (twenty minutes of a quiet machine)
	cargo build --release -p rolegate -p rolegate-benches --bins
	@export ROLEGATE_BIN="$$(realpath $(TARGET)/release/rolegate)"; \
	tests/tools/as-root.sh $(TARGET)/release/report --figures $(TARGET)/bench $(REPORT_FLAGS)

.PHONY: fuzz
fuzz: rust $(ROLEGATE_CACHE)/bin/cargo-fuzz ## every fuzz target (or FUZZ_TARGETS) for FUZZ_SECONDS each
	@tests/fuzz/run.sh $(ROLEGATE_CACHE)/bin/cargo-fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

.PHONY: dashboard-picture
dashboard-picture: setup ## docs/dashboard.svg, of a real agent while things go wrong (four minutes)
	cargo build --workspace --bin rolegate --bin dashboard
	@export ROLEGATE_BIN="$$(realpath $(TARGET)/debug/rolegate)"; \
	tests/tools/as-root.sh $(TARGET)/debug/dashboard docs/dashboard.svg

.PHONY: image
image: rust $(ROLEGATE_CACHE)/bin/cargo-auditable ## both images of IMAGE_ARCH, as OCI archives in target/image
	@deploy/image/build.sh $(IMAGE_ARCH)

# As a part of `test`: what cannot be built here is said, and its tests are skipped by name.
.PHONY: image-if-possible
image-if-possible: setup
	@if command -v buildah >/dev/null; then \
	  $(MAKE) --no-print-directory $(ROLEGATE_CACHE)/bin/cargo-auditable && \
	  deploy/image/build.sh --if-possible $(IMAGE_ARCH); \
	else echo "image: no buildah here, so no image: its tests are skipped by name"; fi

.PHONY: docs
docs: rust ## rustdoc of the workspace
	cargo doc --workspace --no-deps

.PHONY: setup
setup: rust ## what the tests need beside Rust: Debian packages, SDKs, moto
	@tests/tools/setup.sh

.PHONY: kube-binaries
kube-binaries: ## Kubernetes' programs, built once into the cache
	@tests/tools/kube.sh

.PHONY: rust
rust:
	@command -v cargo >/dev/null || { \
	  echo "cargo is missing: install Rust 1.95 or newer (rustup, or your distribution)" >&2; exit 1; }
	@command -v cc >/dev/null || command -v apt-get >/dev/null || { \
	  echo "a C compiler is missing (aws-lc is partly C)" >&2; exit 1; }

$(ROLEGATE_CACHE)/bin/cargo-deny:
	@echo "building cargo-deny $(CARGO_DENY_VERSION) into $(ROLEGATE_CACHE)/bin, once (a few minutes)"
	$(QUICK) cargo install --quiet --locked --root $(ROLEGATE_CACHE) --version $(CARGO_DENY_VERSION) \
	  --no-default-features cargo-deny

$(ROLEGATE_CACHE)/bin/cargo-fuzz:
	@echo "building cargo-fuzz $(CARGO_FUZZ_VERSION) into $(ROLEGATE_CACHE)/bin, once"
	$(QUICK) cargo install --quiet --locked --root $(ROLEGATE_CACHE) --version $(CARGO_FUZZ_VERSION) cargo-fuzz

$(ROLEGATE_CACHE)/bin/cargo-auditable:
	@echo "building cargo-auditable $(CARGO_AUDITABLE_VERSION) into $(ROLEGATE_CACHE)/bin, once (a minute or two)"
	$(QUICK) cargo install --quiet --locked --root $(ROLEGATE_CACHE) --version $(CARGO_AUDITABLE_VERSION) cargo-auditable
