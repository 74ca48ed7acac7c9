# photosearch. `make demo` and `make test` install their dependencies if they run as root on a Debian
# machine with Rust. Servers run as the user postgres.

PG_CONFIG ?= pg_config
PGRX_VERSION := 0.18.1
# The workaround sets compiler flags for all crates, so that cargo would build every dependency again;
# build.rs has the same effect.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND := 1
# Debian's interpreter, which finds Debian's packages of Pillow and numpy.
PYTHON ?= /usr/bin/python3
DEMO_DIR ?= /var/lib/photosearch-demo
BENCH_DIR ?= /var/lib/photosearch-bench
ASSERTS_DIR ?= /var/lib/photosearch-asserts

# Expanded when it is used, because setup may install pg_config first.
pg_major = $(shell $(PG_CONFIG) --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
sharedir = $(shell $(PG_CONFIG) --sharedir)
# heif: read HEIC and AVIF with the system's libheif. `make FEATURES=` builds without it.
FEATURES ?= heif
cargo_pg = --no-default-features --features 'pg$(pg_major) $(FEATURES)'

.PHONY: help setup install demo demo-stop demo-clean test test-asserts crash bench bench-model check-model

help:
	@echo 'make demo        build, install, draw an album of 2,000 pictures, find all the baby photos'
	@echo 'make demo-stop   stop the demo server (demo-clean: also delete the album)'
	@echo 'make test        build, install, run all tests'
	@echo 'make test-asserts   run every suite that needs a server on a PostgreSQL with assertions (SEEDS=2 seeds)'
	@echo 'make crash       crash servers at random moments (ROUNDS=200), then test standby, damaged files and churn'
	@echo 'make install     build the extension and install it into the server of PG_CONFIG'
	@echo 'make check-model MODEL=DIR   compare a model with the similarities that its authors publish'
	@echo 'make bench-model measure the models against their aims and transformers (BENCH="--quick")'
	@echo 'make bench       measure the index against its aims and pgvector (BENCH="--ten-million", "--quick")'

# Debian packages, cargo-pgrx and its configuration. Fast if everything is installed.
setup:
	@PG_CONFIG='$(PG_CONFIG)' PGRX_VERSION='$(PGRX_VERSION)' FEATURES='$(FEATURES)' sh tests/setup.sh

install: setup
	$(MAKE) --no-print-directory install-extension install-models

.PHONY: install-extension install-models
install-extension:
	cargo pgrx install --release --pg-config $$(command -v $(PG_CONFIG)) $(cargo_pg)
	install -m 644 sql/photosearch_pgvector.control sql/photosearch_pgvector--*.sql $(sharedir)/extension/

# cargo-pgrx installs the library, the control file and the SQL, but no models.
install-models:
	for model in models/*/config.json; do \
		name=$$(basename $$(dirname $$model)); \
		install -d $(sharedir)/photosearch/models/$$name && \
		install -m 644 models/$$name/* $(sharedir)/photosearch/models/$$name/ || exit 1; \
	done

demo: install
	$(PYTHON) demo/demo.py --dir $(DEMO_DIR)

demo-stop:
	tests/cluster.sh stop $(DEMO_DIR)/server

demo-clean: demo-stop
	rm -rf $(DEMO_DIR)

test: export TEST_TOOLS := 1
test: install
	FEATURES='$(FEATURES)' $(PYTHON) tests/run.py

# Takes about ten minutes, plus the builds of PostgreSQL and of the extension.
SEEDS ?= 2
test-asserts: export TEST_TOOLS := 1
test-asserts: setup
	PYTHON='$(PYTHON)' FEATURES='$(FEATURES)' sh tests/asserts.sh '$(ASSERTS_DIR)' --seeds $(SEEDS)

# The crash, standby, corruption and churn tests, run for longer than in `make test`.
ROUNDS ?= 200
CRASH_VENV ?= target/crash-venv
crash: install
	$(PYTHON) -m venv $(CRASH_VENV) && $(CRASH_VENV)/bin/pip install -q -r tests/client/requirements.txt
	$(CRASH_VENV)/bin/python tests/crash/run_crash.py --rounds $(ROUNDS)
	$(CRASH_VENV)/bin/python tests/crash/run_standby.py --seconds 60
	$(CRASH_VENV)/bin/python tests/crash/run_corrupt.py --copies 1000
	$(CRASH_VENV)/bin/python tests/crash/run_churn.py --minutes 10

bench: install
	$(PYTHON) benches/index.py --dir $(BENCH_DIR) $(BENCH)

bench-model: install
	$(PYTHON) benches/model.py --dir $(BENCH_DIR) $(BENCH)

check-model: install
	$(PYTHON) tests/check_model/check_model.py --model $(MODEL)
