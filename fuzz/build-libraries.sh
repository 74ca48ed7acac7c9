#!/bin/sh
# Builds libwebp, libtiff, libheif and its decoders libde265 and aom from Debian's sources for the fuzzer:
# with the address sanitizer, and with the counters that tell the fuzzer which code an input reaches. The
# system's libraries have neither. The results are in fuzz/target/libraries.
#
# Run as root, because it installs the packages that the build needs. Takes about ten minutes. Sources
# that are already in fuzz/target/libraries/src are not downloaded again; remove that directory to get
# the newest ones.
set -eu

cd "$(dirname "$0")"
prefix=$PWD/target/libraries
mkdir -p "$prefix/src"

packages="clang cmake dpkg-dev libdeflate-dev libjpeg-dev liblzma-dev libzstd-dev nasm pkg-config
zlib1g-dev"
# shellcheck disable=SC2086 # a list of words
dpkg-query -W $packages >/dev/null 2>&1 ||
    env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null

# Entries for Debian's source repositories (deb-src), made from the system's entries for its binary ones, in
# a directory of their own. The system's entries stay unchanged.
lists=$prefix/lists
mkdir -p "$lists/sources" "$lists/state/partial"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    [ -e "$file" ] || continue
    case $file in
    *.list) grep -E '^deb .*[/.]debian' "$file" | sed 's/^deb /deb-src /' ;;
    *.sources) grep -qE '^URIs:.*[/.]debian' "$file" && sed 's/^Types: .*/Types: deb-src/' "$file" ;;
    *) false ;;
    esac >"$lists/sources/$(basename "$file")" || rm -f "$lists/sources/$(basename "$file")"
done
from_debian() {
    command=$1
    shift
    (cd "$prefix/src" && "$command" -qq -o Dir::Etc::SourceList=/dev/null \
        -o Dir::Etc::SourceParts="$lists/sources" -o Dir::State::Lists="$lists/state" \
        -o APT::Sandbox::User=root "$@")
}
# Downloads the newest version of the source package $1 that the mirror has completely. Warns if it is
# not the version of the installed library package $2, as the two may differ in their fixes.
fetch() {
    ls -d "$prefix/src/$1"-*/ 2>/dev/null && return
    [ -n "${updated:-}" ] || from_debian apt-get update
    updated=1
    installed=$(dpkg-query -W -f '${source:Version}' "$2" 2>/dev/null || echo none)
    for version in $(from_debian apt-cache showsrc --only-source "$1" | sed -n 's/^Version: //p' |
        sort -uVr); do
        if from_debian apt-get source "$1=$version" >/dev/null 2>&1; then
            echo "$1 $version"
            [ "$installed" = "$version" ] || echo "warning: the installed $2 is $installed" >&2
            return
        fi
    done
    echo "the mirror has no source of $1" >&2
    exit 1
}
fetch libwebp libwebp7
fetch tiff libtiff6
fetch libde265 libde265-0
fetch aom libaom3
fetch libheif libheif1

export CC=clang CXX=clang++
export CFLAGS="-fsanitize=address,fuzzer-no-link -g -O1 -fno-omit-frame-pointer"
export CXXFLAGS="$CFLAGS"
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
build() {
    source=$(echo "$prefix/src/$1"-*/)
    shift
    echo "${source%/}"
    # Build type None, which keeps assertions, as in Debian's packages.
    rm -rf "$source/build-fuzz"
    cmake -S "$source" -B "$source/build-fuzz" -DCMAKE_BUILD_TYPE=None -DBUILD_SHARED_LIBS=OFF \
        -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_PREFIX_PATH="$prefix" \
        "$@" >"${source%/}.log" 2>&1 &&
        cmake --build "$source/build-fuzz" --target install --parallel 2 >>"${source%/}.log" 2>&1 ||
        { tail -n 20 "${source%/}.log" && exit 1; }
}
build libwebp -DWEBP_BUILD_ANIM_UTILS=OFF -DWEBP_BUILD_CWEBP=OFF -DWEBP_BUILD_DWEBP=OFF \
    -DWEBP_BUILD_GIF2WEBP=OFF -DWEBP_BUILD_IMG2WEBP=OFF -DWEBP_BUILD_VWEBP=OFF \
    -DWEBP_BUILD_WEBPINFO=OFF -DWEBP_BUILD_WEBPMUX=OFF -DWEBP_BUILD_EXTRAS=OFF
# The compressions of Debian's libtiff, except those that photosearch does not read.
build tiff -Djbig=OFF -Dlerc=OFF -Dcxx=OFF -Dtiff-tools=OFF -Dtiff-tests=OFF -Dtiff-contrib=OFF \
    -Dtiff-docs=OFF
build libde265 -DENABLE_SDL=OFF -DENABLE_ENCODER=OFF -DENABLE_DECODER=OFF
build aom -DCONFIG_AV1_ENCODER=0 -DENABLE_DOCS=0 -DENABLE_EXAMPLES=0 -DENABLE_TESTS=0 \
    -DENABLE_TESTDATA=0 -DENABLE_TOOLS=0
# Without dav1d, because photosearch decodes AVIF by aom wherever libheif has it.
build libheif -DENABLE_PLUGIN_LOADING=OFF -DWITH_LIBDE265=ON -DWITH_AOM_DECODER=ON \
    -DWITH_AOM_ENCODER=OFF -DWITH_DAV1D=OFF -DWITH_X265=OFF -DWITH_RAV1E=OFF -DWITH_SvtEnc=OFF \
    -DWITH_EXAMPLES=OFF -DWITH_GDK_PIXBUF=OFF -DBUILD_TESTING=OFF

# On the linker's command line, a static library has to stand before the libraries that it calls. libjpeg is
# not listed: turbojpeg-sys links one already, with the ABI of libjpeg-dev, for which libtiff was built.
libs() {
    sed -i "s/^Libs: .*/Libs: -L\${libdir} $2/" "$prefix/lib/pkgconfig/$1.pc"
}
libs libwebp "-lwebp -lm"
libs libwebpdemux "-lwebpdemux -lwebp -lm"
libs libtiff-4 "-ltiff -lwebp -lzstd -llzma -ldeflate -lz -lm"
libs libde265 "-lde265 -lstdc++ -lm"
libs libheif "-lheif -lde265 -laom -lstdc++ -lpthread -lm"
# Cargo does not notice changed libraries, so remove what was built with the previous ones.
rm -rf target/*/release/build/photosearch-image-* target/*/release/.fingerprint/photosearch-*
