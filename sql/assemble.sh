#!/bin/sh
# Puts the control files and scripts of both extensions into a directory, as Postgres wants them.
#
#   sql/assemble.sh VERSION DIR [RELEASE]
#
# VERSION is the version of the extension photosearch. With RELEASE, the script that updates this release to VERSION is
# written even if the two are equal, under the name RELEASE_released: so tests/upgrade can try it before a new version has
# a number.
set -eu

version=$1
directory=$2
tested=${3:-}
sql=$(dirname "$0")

rm -rf "$directory"
mkdir -p "$directory"
sed "s/@CARGO_VERSION@/$version/" "$sql/../photosearch.control" >"$directory/photosearch.control"
# In the order in which src/lib.rs names the files.
{
    printf '%s\n' '\echo Use "CREATE EXTENSION photosearch" to load this file. \quit'
    cat "$sql/types.sql" "$sql/pair.sql" "$sql/embed.sql" "$sql/index.sql"
} >"$directory/photosearch--$version.sql"

# photosearch--FROM--TO.sql, where TO is `next` until a release gives it a number.
for script in "$sql"/upgrade/photosearch--*--*.sql; do
    name=$(basename "$script" .sql)
    to=${name##*--}
    from=${name#photosearch--}
    from=${from%--*}
    [ "$to" != next ] || to=$version
    [ "$from" = "$to" ] || cp "$script" "$directory/photosearch--$from--$to.sql"
    [ "$from" != "$tested" ] || cp "$script" "$directory/photosearch--${from}_released--$to.sql"
done

cp "$sql"/photosearch_pgvector.control "$sql"/photosearch_pgvector--*.sql "$directory"
