#!/bin/sh
# Runs the isolation specs with Postgres' pg_isolation_regress against a running server: concurrent
# sessions whose steps run in the order of each permutation.
#
#   tests/cluster.sh run DIR sh tests/isolation/run.sh [spec...]
#
# Without names every spec of the schedule is run. Output and differences are left in
# target/regress/isolation/. The database "isolation_regression" is dropped and created again;
# setup.sql creates the functions that the specs share.
set -eu

pg_config=${PG_CONFIG:-pg_config}
input=$(realpath "$(dirname "$0")")
root=$(realpath "$input/../..")
output=${CARGO_TARGET_DIR:-$root/target}/regress/isolation
database=isolation_regression
mkdir -p "$output"
# Seconds after which a step counts as hanging and is cancelled.
export PGISOLATIONTIMEOUT="${PGISOLATIONTIMEOUT:-30}"
[ $# -gt 0 ] || set -- --schedule="$input/schedule"

pg_isolation_regress=$(dirname "$("$pg_config" --pgxs)")/../test/isolation/pg_isolation_regress
psql() {
    "$("$pg_config" --bindir)/psql" -X -q -v ON_ERROR_STOP=1 "$@"
}
psql -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS $database" \
    -c "CREATE DATABASE $database TEMPLATE template0"
psql -d "$database" -f "$input/setup.sql"
cd "$output"
"$pg_isolation_regress" --use-existing --inputdir="$input" --outputdir="$output" \
    --bindir="$("$pg_config" --bindir)" --user="${PGUSER:-postgres}" --dbname="$database" "$@" || {
    cat "$output/regression.diffs"
    exit 1
}
