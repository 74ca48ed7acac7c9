#!/bin/sh
# Runs a folder of SQL files with expected output by pg_regress, against a running server.
#
#   tests/cluster.sh run DIR tests/regress/run.sh tests/regress [test...]
#   tests/cluster.sh run DIR tests/regress/run.sh tests/bridge
#
# Without names every test of the folder's schedule is run. What was seen, and the differences,
# are left in target/regress/. The database "regression" is dropped and made again.
set -eu

pg_config=${PG_CONFIG:-pg_config}
input=$(realpath "$1")
shift
root=$(realpath "$(dirname "$0")/../..")
output=${CARGO_TARGET_DIR:-$root/target}/regress/$(basename "$input")
mkdir -p "$output"
[ $# -gt 0 ] || set -- --schedule="$input/schedule"

pg_regress=$(dirname "$("$pg_config" --pgxs)")/../test/regress/pg_regress
cd "$output"
"$pg_regress" --inputdir="$input" --outputdir="$output" --bindir="$("$pg_config" --bindir)" \
    --user="${PGUSER:-postgres}" --dbname=regression "$@" || {
    cat "$output/regression.diffs"
    exit 1
}
