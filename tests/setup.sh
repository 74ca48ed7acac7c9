#!/bin/sh
# Installs the dependencies of the build and the tests on Debian: Postgres with its headers, libclang for
# the bindings, libtiff, libwebp, libheif, cmake and nasm for building libjpeg-turbo, Python with Pillow
# for the albums, and cargo-pgrx. If TEST_TOOLS is set, also the encoders that make pictures for the tests,
# and PgBouncer.
# make calls this script with PG_CONFIG, PGRX_VERSION and FEATURES set.
set -eu

packages="build-essential clang cmake dpkg-dev libclang-dev libtiff-dev libwebp-dev nasm pkg-config
postgresql python3 python3-numpy python3-pil python3-venv sudo"
case " $FEATURES ${TEST_TOOLS:+heif} " in
*" heif "*) packages="$packages libde265-dev libheif-dev" ;;
esac
[ -z "${TEST_TOOLS:-}" ] ||
    packages="$packages faketime libavif-bin libheif-examples libjpeg-turbo-progs libtiff-tools pgbouncer webp"

missing() {
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
}

# shellcheck disable=SC2086 # a list of words
wanted=$(missing $packages)
if [ -n "$wanted" ] || ! command -v "$PG_CONFIG" >/dev/null ||
    [ ! -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ]; then
    apt-get update -qq
    # shellcheck disable=SC2086
    [ -z "$wanted" ] || env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $wanted
    major=$(find /usr/lib/postgresql -mindepth 1 -maxdepth 1 -printf '%f\n' | sort -n | tail -n 1)
    env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "postgresql-server-dev-$major"
fi

if ! cargo pgrx --version 2>/dev/null | grep -q "cargo-pgrx $PGRX_VERSION"; then
    cargo install cargo-pgrx --version "$PGRX_VERSION" --locked
fi

major=$("$PG_CONFIG" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
config=${PGRX_HOME:-$HOME/.pgrx}/config.toml
if ! grep -qs "^pg$major *= *\"$(command -v "$PG_CONFIG")\"" "$config"; then
    cargo pgrx init "--pg$major" "$(command -v "$PG_CONFIG")"
fi
