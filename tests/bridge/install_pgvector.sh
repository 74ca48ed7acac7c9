#!/bin/sh
# Builds pgvector from the source package of a newer Debian release and installs it into the server that
# PG_CONFIG names. Does nothing if the server has pgvector already.
#
#   tests/bridge/install_pgvector.sh
#
# Debian packages pgvector from trixie on, for that release's PostgreSQL only; the same source builds
# against every supported version. The source comes from the Debian archive that apt is configured for.
# The list of sources, the package index and the download are kept in a temporary directory, so that the
# system's apt configuration and state do not change. Needs dpkg-dev, make and a C compiler.
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

# The configured repositories, in either of apt's two file formats. The first repository that holds the
# packages of a release (not its updates) is taken.
archive=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk '$3 == "main" && $2 !~ /-/ { print $1; exit }')
if [ -z "$archive" ]; then
    echo "apt has no Debian archive configured, so the source of pgvector cannot be downloaded" >&2
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
# apt has verified the files by the archive's signature, so dpkg-source does not have to check them.
(cd "$work" && apt source --download-only pgvector && dpkg-source --no-check -x ./*.dsc source)

# OPTFLAGS is empty because upstream would optimise for the building machine's CPU (-march=native).
make -C "$work/source" -s OPTFLAGS= PG_CONFIG="$pg_config"
make -C "$work/source" -s OPTFLAGS= PG_CONFIG="$pg_config" install
