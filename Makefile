# photosearch: `make demo` and `make test`, run as root on a Debian machine with Rust, install what
# they need. Servers run as the user postgres.

PG_CONFIG ?= pg_config
PGRX_VERSION := 0.18.1
# Its flags, for all crates, would make cargo build every dependency once more; build.rs does what
# they are for.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND := 1
# Debian's own, which has Debian's Pillow and numpy.
PYTHON ?= /usr/bin/python3
DEMO_DIR ?= /var/lib/photosearch-demo
BENCH_DIR ?= /var/lib/photosearch-bench
ASSERTS_DIR ?= /var/lib/photosearch-asserts

# Looked up when used: setup may have just installed it.
pg_major = $(shell $(PG_CONFIG) --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
sharedir = $(shell $(PG_CONFIG) --sharedir)
# heif: HEIC and AVIF are read, by the system's libheif. FEATURES= builds without it.
FEATURES ?= heif
cargo_pg = --no-default-features --features 'pg$(pg_major) $(FEATURES)'

.PHONY: help setup install demo demo-stop demo-clean test test-asserts crash bench bench-model check-model

help:
	@echo 'make demo        build, draw an album of 2,000 pictures, find all the baby photos'
	@echo 'make demo-stop   stop the server of the demo'
	@echo 'make test        everything'
	@echo 'make test-asserts   every suite that needs a server, on a PostgreSQL with assertions, SEEDS=2 times'
	@echo 'make crash       crash servers at random moments, ROUNDS=200 times; then the other tests of trust'
	@echo 'make install     build the extension and install it into the server of $$PG_CONFIG'
	@echo 'make check-model MODEL=DIR   compare a model with the figures that its authors publish'
	@echo 'make bench-model measure models against their aims and transformers (BENCH="--quick")'
	@echo 'make bench       measure the index against its aims and pgvector (BENCH="--ten-million", "--quick")'

# Debian packages, cargo-pgrx, and where it finds Postgres. Quick where all is there already.
setup:
	@PG_CONFIG='$(PG_CONFIG)' PGRX_VERSION='$(PGRX_VERSION)' FEATURES='$(FEATURES)' sh tests/setup.sh

install: setup
	$(MAKE) --no-print-directory install-extension install-models

.PHONY: install-extension install-models
install-extension:
	cargo pgrx install --release --pg-config $$(command -v $(PG_CONFIG)) $(cargo_pg)
	install -m 644 sql/photosearch_pgvector.control sql/photosearch_pgvector--*.sql $(sharedir)/extension/

# cargo-pgrx knows only the library, the control file and the SQL.
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

# Some ten minutes, and builds of PostgreSQL and of the extension before them.
SEEDS ?= 2
test-asserts: export TEST_TOOLS := 1
test-asserts: setup
	PYTHON='$(PYTHON)' FEATURES='$(FEATURES)' sh tests/asserts.sh '$(ASSERTS_DIR)' --seeds $(SEEDS)

# The stages of trust for as long as one likes. Needs psycopg: tests/client/requirements.txt.
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
