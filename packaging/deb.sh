#!/bin/sh
# Makes a Debian package of what `make build` has built, with the programs of dpkg, dpkg-dev and binutils.
#
#   packaging/deb.sh TARGET_DIR VERSION
#
# make calls it. The result is TARGET_DIR/deb/postgresql-MAJOR-photosearch_*.deb for the server of PG_CONFIG, which has to be one
# of Debian's or of apt.postgresql.org: the package depends on postgresql-MAJOR. A second package, …-dbgsym, holds the line
# tables. Depends is read from the libraries that ours is linked to.
set -eu

target=$(realpath "$1")
version=$2
root=$(realpath "$(dirname "$0")/..")
major=$("$PG_CONFIG" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
package=postgresql-$major-photosearch
architecture=$(dpkg --print-architecture)
work=$target/deb/work
case $("$PG_CONFIG" --pkglibdir) in
"/usr/lib/postgresql/$major/lib") ;;
*) echo "$PG_CONFIG is not a server of Debian's: there is no package postgresql-$major to depend on" >&2 && exit 1 ;;
esac

# Until the tag of a release exists, a package is older than that release; after it, newer than it and older than the next.
release=$version
commit=$(git -C "$root" log -1 --format=%ct.%h 2>/dev/null) || commit=
if [ -n "$commit" ] && [ "$(git -C "$root" tag --points-at HEAD)" != "v$version" ]; then
    sign=$(git -C "$root" merge-base --is-ancestor "v$version" HEAD 2>/dev/null && echo + || echo '~')
    release="$version${sign}git$(date -u -d "@${commit%.*}" +%Y%m%d.%H%M%S).${commit#*.}"
fi
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-${commit%.*}}"
[ -n "$SOURCE_DATE_EPOCH" ] || SOURCE_DATE_EPOCH=$(stat -c %Y "$root/Cargo.toml")
full=$release-1
# Who makes the package, by the variables of Debian's tools.
maintainer="${DEBFULLNAME:-the photosearch developers} <${DEBEMAIL:-photosearch@localhost}>"

rm -rf "$target/deb"
mkdir -p "$work/debian" "$work/$package/DEBIAN" "$work/$package-dbgsym/DEBIAN"
cd "$work"
# Make is called as by a person: flags and variables of the make that called this script would hold for it too.
env -u MAKEFLAGS -u MAKELEVEL make -s -C "$root" install-files DESTDIR="$work/$package" PG_CONFIG="$PG_CONFIG" CARGO_TARGET_DIR="$target"

library=$package/usr/lib/postgresql/$major/lib/photosearch.so
id=$(readelf -n "$library" | sed -n 's/^ *Build ID: //p')
[ -n "$id" ] || { echo "the library has no build ID" >&2 && exit 1; }
debug=$package-dbgsym/usr/lib/debug/.build-id/$(echo "$id" | cut -c1-2)/$(echo "$id" | cut -c3-).debug
mkdir -p "$(dirname "$debug")"
objcopy --only-keep-debug --compress-debug-sections "$library" "$debug"
chmod 644 "$debug"
strip --remove-section=.comment --strip-unneeded "$library"

# dpkg-shlibdeps wants a source package's control file.
printf 'Source: photosearch\n\nPackage: %s\nArchitecture: any\n' "$package" >debian/control
depends=$(dpkg-shlibdeps -O "$library" | sed -n 's/^shlibs:Depends=//p')

control() { # PACKAGE, lines that follow
    cat <<END
Package: $1
Source: photosearch
Version: $full
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -k -s --apparent-size "$work/$1" | cut -f1)
Priority: optional
END
    cat
}

documents() { # PACKAGE
    directory=$1/usr/share/doc/$1
    mkdir -p "$directory"
    {
        echo 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/'
        echo 'Upstream-Name: photosearch'
        echo
        echo 'Files: *'
        sed -n 's/^Copyright (c) /Copyright: /p' "$root/LICENSE"
        echo 'License: PostgreSQL'
        sed '1,2d; s/^$/./; s/^/ /' "$root/LICENSE"
    } >"$directory/copyright"
    printf 'photosearch (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md in the source.\n\n -- %s  %s\n' \
        "$full" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$directory/changelog.Debian.gz"
    [ "$1" != "$package" ] || gzip -9nc "$root/CHANGELOG.md" >"$directory/changelog.gz"
}

documents "$package"
overrides=$package/usr/share/lintian/overrides
mkdir -p "$overrides"
cat >"$overrides/$package" <<END
# libjpeg-turbo is built in on purpose, so that every server reads a picture alike.
$package: embedded-library libjpeg *
# Not an upload to Debian.
$package: initial-upload-closes-no-bugs *
END
mkdir -p "$package-dbgsym/usr/share/doc"
ln -s "$package" "$package-dbgsym/usr/share/doc/$package-dbgsym"

control "$package" >"$package/DEBIAN/control" <<END
Section: database
Depends: postgresql-$major, $depends
Suggests: postgresql-$major-pgvector
Description: find all the photos that match a description, inside PostgreSQL
 photosearch is an extension of PostgreSQL for searching photo libraries by
 what the photos show. Multimodal embedding models run inside the server, and
 the index access method mrl finds every row that reaches a threshold, not
 only the best few.
 .
 This package is for PostgreSQL $major.
END
control "$package-dbgsym" >"$package-dbgsym/DEBIAN/control" <<END
Section: debug
Depends: $package (= $full)
Auto-Built-Package: debug-symbols
Build-Ids: $id
Description: debug symbols for $package
END

for name in "$package" "$package-dbgsym"; do
    (cd "$name" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    find "$name" -type d -exec chmod 755 {} +
    chmod 644 "$name"/DEBIAN/*
    dpkg-deb --root-owner-group --build "$name" "$target/deb/${name}_${full}_$architecture.deb"
done
rm -rf "$work"
