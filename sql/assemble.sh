#!/bin/sh
# Makes DIR anew, with the control files and scripts of both extensions, as Postgres wants them. What DIR held is
# deleted.
#
#   sql/assemble.sh VERSION DIR
#
# VERSION is the version of the extension photosearch.
set -eu

version=$1
directory=$2
sql=$(dirname "$0")

rm -rf "$directory"
mkdir -p "$directory"
sed "s/@CARGO_VERSION@/$version/" "$sql/../photosearch.control" >"$directory/photosearch.control"
# In the order in which src/lib.rs names the files.
{
    printf '%s\n' '\echo Use "CREATE EXTENSION photosearch" to load this file. \quit'
    cat "$sql/types.sql" "$sql/pair.sql" "$sql/embed.sql" "$sql/index.sql"
} >"$directory/photosearch--$version.sql"

cp "$sql"/upgrade/*.sql "$sql"/photosearch_pgvector.control "$sql"/photosearch_pgvector--*.sql "$directory"
