#!/bin/sh
# Installs the dependencies of the build and the tests on Debian: Postgres with its headers, libclang for
# the bindings, libtiff, libwebp, libheif, cmake and nasm for building libjpeg-turbo, Python with Pillow
# for the albums. If TEST_TOOLS is set, also the encoders that make pictures for the tests, and PgBouncer.
# make calls this script with PG_CONFIG and FEATURES set.
#
# The server is that of PG_CONFIG. Where there is no such program yet, it is the newest server that is
# installed, or else the one that Debian's package `postgresql` stands for.
set -eu

versions=/usr/lib/postgresql
packages="build-essential clang cmake dpkg-dev libclang-dev libtiff-dev libwebp-dev nasm pkg-config
python3 python3-numpy python3-pil python3-venv sudo"
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

install_packages() {
    if [ "$(id -u)" != 0 ]; then
        echo "These packages are missing. Install them as root:" "$@" >&2
        exit 1
    fi
    [ -n "${updated:-}" ] || apt-get update -qq
    updated=1
    env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"
}

# The major versions of the servers that are installed, lowest first.
servers() {
    for server in "$versions"/*/bin/postgres; do
        [ ! -x "$server" ] || echo "$server"
    done | sed "s|^$versions/||; s|/.*||" | sort -n
}

# shellcheck disable=SC2086 # a list of words
wanted=$(missing $packages)
# shellcheck disable=SC2086
[ -z "$wanted" ] || install_packages $wanted

# Debian's /usr/bin/pg_config calls the pg_config of the newest server with headers. If no server has headers, it calls
# the client's, whose version may be that of no server at all.
if [ "$PG_CONFIG" = pg_config ] || [ "$PG_CONFIG" = /usr/bin/pg_config ]; then
    have_headers=
    for config in "$versions"/*/bin/pg_config; do [ ! -x "$config" ] || have_headers=1; done
    if [ -z "$have_headers" ]; then
        [ -n "$(servers)" ] || install_packages postgresql
        install_packages "postgresql-server-dev-$(servers | tail -n 1)"
    fi
fi

# The major version, if PG_CONFIG is the path where Debian's packages put a server's own pg_config.
debian=$(echo "$PG_CONFIG" | sed -n "s|^$versions/\([0-9]*\)/bin/pg_config\$|\1|p")
if [ -n "$debian" ] && [ ! -x "$PG_CONFIG" ]; then
    install_packages "postgresql-server-dev-$debian"
fi
if ! command -v "$PG_CONFIG" >/dev/null; then
    echo "PG_CONFIG: there is no program $PG_CONFIG" >&2
    exit 1
fi

major=$("$PG_CONFIG" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
bindir=$("$PG_CONFIG" --bindir)
if [ ! -x "$bindir/postgres" ]; then
    if [ "$bindir" != "$versions/$major/bin" ]; then
        echo "$PG_CONFIG belongs to no server: $bindir has no postgres. Choose a server's by PG_CONFIG=." >&2
        exit 1
    fi
    install_packages "postgresql-$major"
fi
if [ ! -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ]; then
    if [ "$bindir" != "$versions/$major/bin" ]; then
        echo "$("$PG_CONFIG" --includedir-server) has no postgres.h: install the headers of this server" >&2
        exit 1
    fi
    install_packages "postgresql-server-dev-$major"
fi

if [ "$(servers | wc -l)" -gt 1 ] && [ "$(command -v "$PG_CONFIG")" = /usr/bin/pg_config ]; then
    echo "Servers of several versions are installed:" $(servers) >&2
    echo "This is for version $major. For another: make PG_CONFIG=$versions/VERSION/bin/pg_config" >&2
fi
echo "$("$PG_CONFIG" --version): $("$PG_CONFIG" --pkglibdir), $("$PG_CONFIG" --sharedir)/extension"
