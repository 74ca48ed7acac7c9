#!/bin/sh
# Builds PostgreSQL with assertions from Debian's source package, installs photosearch into it, and runs
# every suite that needs a server on it.
#
#   tests/asserts.sh DIR [options of tests/run.py --servers]
#
# If an extension breaks a rule that a normal build does not check, an assertion stops the server, the
# log contains TRAP, and the suite fails. DIR holds the source, the server and the extension's build
# (several GB). A second run reuses them and builds only the extension again.
# The user who runs the server must be able to read DIR. apt's state and the system's server do not
# change. PG_CONFIG decides the major version, JOBS the number of concurrent compilers.
set -eu

mkdir -p "$1"
dir=$(realpath "$1")
shift
root=$(realpath "$(dirname "$0")/..")
jobs=${JOBS:-$(nproc)}
major=$("${PG_CONFIG:-pg_config}" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
source=$dir/source-$major
server=$dir/server-$major

# Downloads the newest source package that is available; the archive of security updates does not keep
# every version that it lists.
get_source() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
        awk '$3 == "main" && $4 == "Debian" {
            print "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]", $1, $2, $3
        }' >"$work/sources.list"
    options="-o Dir::Etc::SourceList=$work/sources.list -o Dir::Etc::SourceParts=-
        -o Dir::State::Lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=root"
    # shellcheck disable=SC2086 # a list of words
    apt-get -qq $options update
    # shellcheck disable=SC2086
    for version in $(apt-cache $options showsrc "postgresql-$major" | sed -n 's/^Version: //p' | sort -Vru); do
        # apt has verified the files by the archive's signature, so dpkg-source does not have to check them.
        # Debian's patches are skipped, because they set the directory of libraries to the system server's
        # and ignore the prefix.
        if (cd "$work" && apt-get -qq $options source --download-only "postgresql-$major=$version"); then
            dpkg-source --no-check --no-copy --skip-patches -x "$work/postgresql-$major"_*.dsc "$source"
            return
        fi
        echo "the source of version $version cannot be downloaded" >&2
    done
    echo "apt has no source package of postgresql-$major" >&2
    exit 1
}

[ -x "$source/configure" ] || get_source

# Fails unless every path lies in the new server, because an installation elsewhere would overwrite the
# system's server.
below_server() {
    [ $# -gt 0 ] || { echo "no directories to check" >&2 && return 1; }
    for path in "$@"; do
        case $path in
        "$server"/*) ;;
        *) echo "$path is outside $server, so nothing is installed" >&2 && return 1 ;;
        esac
    done
}

# A makefile that prints the directories into which `make install` writes, on one line.
directories='top_builddir = .
include src/Makefile.global
show:
	@echo $(bindir) $(libdir) $(pkglibdir) $(datadir) $(includedir) $(includedir_server) $(docdir) $(mandir)'

build_server() {
    cd "$source"
    # Postgres' makefiles behave differently if make calls them.
    unset MAKEFLAGS MAKELEVEL MFLAGS
    # Without libraries that no test needs, so that their headers do not have to be installed.
    ./configure -q --prefix="$server" --enable-cassert --enable-debug --without-icu --without-readline --without-zlib
    # shellcheck disable=SC2046 # a list of paths
    below_server $(echo "$directories" | make -s -f - show)
    make -s -j"$jobs"
    for module in amcheck postgres_fdw; do
        make -s -C "contrib/$module" -j"$jobs"
        make -s -C "contrib/$module" install
    done
    # The server is installed last: its presence shows that an earlier build was complete.
    make -s install
}

if [ ! -x "$server/bin/postgres" ]; then
    # A subshell with `set -e` ends at the first failure, but not if it stands in `if` or before `||`.
    set +e
    (set -e && build_server) >"$dir/build.log" 2>&1
    failed=$?
    set -e
    [ $failed = 0 ] || { tail -n 20 "$dir/build.log" && exit 1; }
fi

# A separate build directory, because that of the repository belongs to the system's server.
PG_CONFIG=$server/bin/pg_config
CARGO_TARGET_DIR=$dir/target
CARGO_BUILD_JOBS=$jobs
export PG_CONFIG CARGO_TARGET_DIR CARGO_BUILD_JOBS
for option in bindir libdir pkglibdir sharedir includedir-server; do
    below_server "$("$PG_CONFIG" --$option)"
done
cd "$root"
make --no-print-directory install PG_CONFIG="$PG_CONFIG"
[ "$(sed -n 's/^#define USE_ASSERT_CHECKING //p' "$("$PG_CONFIG" --includedir-server)/pg_config.h")" = 1 ]
exec "${PYTHON:-/usr/bin/python3}" tests/run.py --servers "$@"
