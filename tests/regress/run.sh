#!/bin/sh
# Runs a directory of SQL files with pg_regress against a running server and compares the output with the
# expected files.
#
#   tests/cluster.sh run DIR sh tests/regress/run.sh tests/regress [test...]
#   tests/cluster.sh run DIR sh tests/regress/run.sh tests/bridge
#
# Without test names, the directory's schedule is run. A single test of tests/regress needs the test setup before
# it: `tests/regress setup coarse`. Output and differences are left in target/regress/. The database "regression"
# is dropped and created again.
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
