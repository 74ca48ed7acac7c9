# photosearch. `make demo` and `make test` install their dependencies if they run as root on a Debian
# machine with Rust. Servers run as the user postgres.

PG_CONFIG ?= pg_config
# Programs that change their directory run it too, so the path is absolute. It stays a name as long as there is
# no such program, because setup may install it.
override PG_CONFIG := $(or $(shell path=$$(command -v '$(PG_CONFIG)') && realpath -s "$$path"),$(PG_CONFIG))
export PG_CONFIG
# pgrx makes its bindings from the headers of this server; otherwise it needs a configuration by `cargo pgrx init`.
export PGRX_PG_CONFIG_PATH = $(PG_CONFIG)
PGRX_VERSION := $(shell sed -n 's/^pgrx = "=\(.*\)"/\1/p' Cargo.toml)
# Disables a workaround of cargo-pgrx, which only the backend tests use. It sets compiler flags for all crates, so that
# cargo would build every dependency again; build.rs has the same effect on the extension alone.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND := 1
# Debian's interpreter, which finds Debian's packages of Pillow and numpy.
PYTHON ?= /usr/bin/python3
DEMO_DIR ?= /var/lib/photosearch-demo
BENCH_DIR ?= /var/lib/photosearch-bench
ASSERTS_DIR ?= /var/lib/photosearch-asserts
VERSIONS_DIR ?= /var/lib/photosearch-versions
# The servers of make test-versions, and one of an older version, which is upgraded to each of them.
PG_CONFIGS ?=
UPGRADE_FROM ?=

# Expanded when it is used, because setup may install pg_config first.
pg_major = $(shell $(PG_CONFIG) --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
pkglibdir = $(shell $(PG_CONFIG) --pkglibdir)
sharedir = $(shell $(PG_CONFIG) --sharedir)
# Files are installed below this directory, for packages.
DESTDIR ?=
version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
target_dir := $(or $(CARGO_TARGET_DIR),target)
# heif: read HEIC and AVIF with the system's libheif. `make FEATURES=` builds without it.
FEATURES ?= heif
cargo_pg = --no-default-features --features 'pg$(pg_major) $(FEATURES)'

.PHONY: help setup cargo-pgrx build install install-extension install-files deb demo demo-stop demo-clean test test-asserts test-versions
.PHONY: crash bench bench-model check-model

help:
	@echo 'make demo        build, install, draw an album of 2,000 pictures, find all the baby photos'
	@echo 'make demo-stop   stop the demo server (demo-clean: also delete the album)'
	@echo 'make test        build, install, run all tests'
	@echo 'make test-asserts   run every suite that needs a server on a PostgreSQL with assertions (SEEDS=2 seeds)'
	@echo 'make test-versions PG_CONFIGS="…"   build for other versions of PostgreSQL, install into these servers, run suites on each'
	@echo 'make crash       crash servers at random moments (ROUNDS=200), then test standby, damaged files and churn'
	@echo 'make install     build the extension and install it into the server of PG_CONFIG'
	@echo 'make build       only build; then make install-files (DESTDIR=DIR) installs what was built'
	@echo 'make deb         make a Debian package for the major version of PG_CONFIG, in target/deb'
	@echo 'make check-model MODEL=DIR   compare a model with the similarities that its authors publish'
	@echo 'make bench-model measure the models against their aims and transformers (BENCH="--quick")'
	@echo 'make bench       measure the index against its aims and pgvector (BENCH="--ten-million", "--quick")'

# Debian packages that the build needs. Fast if everything is installed.
setup:
	@FEATURES='$(FEATURES)' sh tests/setup.sh

cargo-pgrx:
	@cargo pgrx --version 2>/dev/null | grep -qx 'cargo-pgrx $(PGRX_VERSION)' || \
		cargo install cargo-pgrx --version '$(PGRX_VERSION)' --locked

# The library, and in the folder `extension` the SQL of both extensions.
build:
	cargo build --release --lib --target-dir '$(target_dir)' $(cargo_pg)
	sh sql/assemble.sh '$(version)' '$(target_dir)/extension'

# The check before the build, which takes minutes.
install: setup
	@for directory in '$(pkglibdir)' '$(sharedir)/extension'; do \
		[ -n '$(DESTDIR)' ] || [ -w "$$directory" ] || { \
			echo "You may not write to $$directory. Run 'make build', then 'make install-files' as root." >&2; exit 1; }; \
	done
	$(MAKE) --no-print-directory install-extension

install-extension: build
	$(MAKE) --no-print-directory install-files

# The library is renamed into place: running servers have the old file mapped, and new sessions find a whole one.
install-files:
	install -d '$(DESTDIR)$(pkglibdir)' '$(DESTDIR)$(sharedir)/extension'
	install -m 644 '$(target_dir)/release/libphotosearch.so' '$(DESTDIR)$(pkglibdir)/photosearch.so.new'
	mv -f '$(DESTDIR)$(pkglibdir)/photosearch.so.new' '$(DESTDIR)$(pkglibdir)/photosearch.so'
	install -m 644 '$(target_dir)'/extension/* '$(DESTDIR)$(sharedir)/extension/'
	for model in models/*/config.json; do \
		name=$$(basename $$(dirname $$model)); \
		install -d '$(DESTDIR)$(sharedir)'/photosearch/models/$$name && \
		install -m 644 models/$$name/* '$(DESTDIR)$(sharedir)'/photosearch/models/$$name/ || exit 1; \
	done

deb: build
	sh packaging/deb.sh '$(target_dir)' '$(version)'

demo: install
	$(PYTHON) demo/demo.py --dir $(DEMO_DIR)

demo-stop:
	tests/cluster.sh stop $(DEMO_DIR)/server

demo-clean: demo-stop
	rm -rf $(DEMO_DIR)

test: export TEST_TOOLS := 1
test: install cargo-pgrx
	FEATURES='$(FEATURES)' $(PYTHON) tests/run.py

# Takes about ten minutes, plus the builds of PostgreSQL and of the extension.
SEEDS ?= 2
test-asserts: export TEST_TOOLS := 1
test-asserts: setup
	PYTHON='$(PYTHON)' FEATURES='$(FEATURES)' sh tests/asserts.sh '$(ASSERTS_DIR)' --seeds $(SEEDS)

# Installs into the servers of PG_CONFIGS. Takes about seven minutes a version, and as long again for the first build.
test-versions: export TEST_TOOLS := 1
test-versions: setup
	PYTHON='$(PYTHON)' FEATURES='$(FEATURES)' sh tests/versions.sh '$(VERSIONS_DIR)' $(PG_CONFIGS) $(if $(UPGRADE_FROM),--from '$(UPGRADE_FROM)')

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
