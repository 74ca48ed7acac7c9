#!/bin/sh
# Builds pgvector from the source package of a newer Debian and installs it into the server that
# PG_CONFIG names. Does nothing where the server has pgvector already.
#
#   tests/bridge/install_pgvector.sh
#
# Debian packages pgvector from trixie on, for that release's PostgreSQL only; the same source
# builds against any supported one. The archive is the one that this machine's apt uses, and apt's
# own state stays as it is: the list, the index and the download live in a directory of their own.
# Needs dpkg-dev, make and a C compiler.
set -eu

pg_config=${PG_CONFIG:-pg_config}
suite=${PGVECTOR_SUITE:-trixie}

if [ -e "$("$pg_config" --sharedir)/extension/vector.control" ]; then
    echo "pgvector is installed already"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"

# apt's own repositories, whichever of its two file formats names them; the first one with
# packages of the release itself (not of its updates) is the archive.
archive=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk '$3 == "main" && $2 !~ /-/ { print $1; exit }')
if [ -z "$archive" ]; then
    echo "apt has no Debian archive to take the source of pgvector from" >&2
    exit 1
fi
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main" \
    >"$work/sources.list"

apt() {
    apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User=root "$@"
}
apt update
# apt has checked the files against the archive's signature; dpkg-source need not look for keys.
(cd "$work" && apt source --download-only pgvector && dpkg-source --no-check -x ./*.dsc source)

# Without OPTFLAGS, which upstream sets to this very CPU.
make -C "$work/source" -s OPTFLAGS= PG_CONFIG="$pg_config"
make -C "$work/source" -s OPTFLAGS= PG_CONFIG="$pg_config" install
