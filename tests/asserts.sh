#!/bin/sh
# Builds PostgreSQL with assertions, from the source in Debian's package, installs photosearch into it,
# and runs every suite that needs a server on it.
#
#   tests/asserts.sh DIR [options of tests/run.py --servers]
#
# Assertions stop a server where an extension breaks a rule that a normal build takes for granted; the
# log then says TRAP, and the suite fails. DIR holds the source, the server, cargo-pgrx's configuration
# and the extension's build (several GB); a second run finds what is there, and builds the extension
# anew. The server's user has to be able to read DIR. apt's own state and the system's server stay as
# they are. The major version is that of PG_CONFIG. JOBS bounds how many compilers run at once.
set -eu

mkdir -p "$1"
dir=$(realpath "$1")
shift
root=$(realpath "$(dirname "$0")/..")
jobs=${JOBS:-$(nproc)}
major=$("${PG_CONFIG:-pg_config}" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
source=$dir/source-$major
server=$dir/server-$major

# The newest source package that can be had: the archive for security updates does not keep all.
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
        # apt has checked the files against the archive's signature; dpkg-source need not look for keys.
        # Debian's patches are left out: with them the directory of libraries is the system server's,
        # whatever the prefix is.
        if (cd "$work" && apt-get -qq $options source --download-only "postgresql-$major=$version"); then
            dpkg-source --no-check --no-copy --skip-patches -x "$work/postgresql-$major"_*.dsc "$source"
            return
        fi
        echo "the source of $version is not there" >&2
    done
    echo "apt has no source of postgresql-$major" >&2
    exit 1
}

[ -x "$source/configure" ] || get_source

# To install elsewhere than below the prefix would overwrite the system's server.
below_server() {
    [ $# -gt 0 ] || { echo "no directory to install into is known" >&2 && return 1; }
    for path in "$@"; do
        case $path in
        "$server"/*) ;;
        *) echo "$path does not lie in $server: nothing is installed" >&2 && return 1 ;;
        esac
    done
}

# The directories that `make install` would fill, on one line.
directories='top_builddir = .
include src/Makefile.global
show:
	@echo $(bindir) $(libdir) $(pkglibdir) $(datadir) $(includedir) $(includedir_server) $(docdir) $(mandir)'

build_server() {
    cd "$source"
    # Postgres' makefiles do otherwise where make has called them.
    unset MAKEFLAGS MAKELEVEL MFLAGS
    # Libraries that no test needs are left out, so that their headers need not be there.
    ./configure -q --prefix="$server" --enable-cassert --enable-debug --without-icu --without-readline --without-zlib
    # shellcheck disable=SC2046 # a list of paths
    below_server $(echo "$directories" | make -s -f - show)
    make -s -j"$jobs"
    make -s -C contrib/amcheck -j"$jobs"
    make -s -C contrib/amcheck install
    # Last, so that a build which was cut off goes on the next time.
    make -s install
}

if [ ! -x "$server/bin/postgres" ]; then
    # In a shell of its own, which ends at the first failure: one behind `if` or before `||` would not.
    set +e
    (set -e && build_server) >"$dir/build.log" 2>&1
    failed=$?
    set -e
    [ $failed = 0 ] || { tail -n 20 "$dir/build.log" && exit 1; }
fi

# A configuration and a build of our own: those of the repository belong to the system's server.
PG_CONFIG=$server/bin/pg_config
PGRX_HOME=$dir/pgrx
CARGO_TARGET_DIR=$dir/target
CARGO_BUILD_JOBS=$jobs
export PG_CONFIG PGRX_HOME CARGO_TARGET_DIR CARGO_BUILD_JOBS
mkdir -p "$PGRX_HOME"
for option in bindir libdir pkglibdir sharedir includedir-server; do
    below_server "$("$PG_CONFIG" --$option)"
done
cd "$root"
make --no-print-directory install PG_CONFIG="$PG_CONFIG"
[ "$(sed -n 's/^#define USE_ASSERT_CHECKING //p' "$("$PG_CONFIG" --includedir-server)/pg_config.h")" = 1 ]
exec "${PYTHON:-/usr/bin/python3}" tests/run.py --servers "$@"
