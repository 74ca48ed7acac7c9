#!/bin/sh
# Builds libtiff, libde265 and libheif from Debian's sources for the fuzzer: with the address
# sanitizer, and with the counters that tell the fuzzer which code an input reaches. The system's own
# libraries are blind to both. They are left in fuzz/target/libraries.
set -eu

cd "$(dirname "$0")"
prefix=$PWD/target/libraries
mkdir -p "$prefix/src"
export CC=clang CXX=clang++
export CFLAGS="-fsanitize=address,fuzzer-no-link -g -O1" CXXFLAGS="-fsanitize=address,fuzzer-no-link -g -O1"

env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq clang cmake dpkg-dev libjpeg-dev \
    libaom-dev pkg-config zlib1g-dev >/dev/null

# Debian's sources, without a change to the system's own list.
sources=$prefix/sources
mkdir -p "$sources/lists/partial"
sed 's/^Types: deb$/Types: deb-src/; s/^deb /deb-src /' /etc/apt/sources.list.d/debian.sources \
    >"$sources/debian.sources"
source_of() {
    (cd "$prefix/src" && apt-get -o Dir::Etc::SourceList=/dev/null \
        -o Dir::Etc::SourceParts="$sources" -o Dir::State::Lists="$sources/lists" "$@")
}
source_of update -qq
for package in tiff libde265 libheif; do
    ls -d "$prefix/src/$package"-*/ >/dev/null 2>&1 || source_of source -qq "$package"
done

build() {
    source=${1%/}
    shift
    cmake -S "$source" -B "$source/build-fuzz" -DCMAKE_BUILD_TYPE=None -DBUILD_SHARED_LIBS=OFF \
        -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_PREFIX_PATH="$prefix" \
        "$@" >"$source.log" 2>&1
    cmake --build "$source/build-fuzz" --target install -j2 >>"$source.log" 2>&1
}
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
# Compressions in libraries of their own stay out, except zlib and JPEG.
build "$(echo "$prefix"/src/tiff-*/)" -Dlzma=OFF -Dzstd=OFF -Dwebp=OFF -Djbig=OFF -Dlerc=OFF \
    -Dlibdeflate=OFF -Dcxx=OFF -Dtiff-tools=OFF -Dtiff-tests=OFF -Dtiff-contrib=OFF -Dtiff-docs=OFF
build "$(echo "$prefix"/src/libde265-*/)" -DENABLE_SDL=OFF -DENABLE_ENCODER=OFF -DENABLE_DECODER=OFF
build "$(echo "$prefix"/src/libheif-*/)" -DWITH_EXAMPLES=OFF -DWITH_X265=OFF -DWITH_AOM_DECODER=ON \
    -DWITH_AOM_ENCODER=OFF -DWITH_RAV1E=OFF -DWITH_SvtEnc=OFF -DWITH_DAV1D=OFF \
    -DENABLE_PLUGIN_LOADING=OFF -DWITH_LIBDE265=ON -DWITH_GDK_PIXBUF=OFF -DBUILD_TESTING=OFF

# What static libraries need stands behind them.
sed -i 's/^Libs: .*/Libs: -L${libdir} -ltiff -ljpeg -lz -lm/' "$prefix/lib/pkgconfig/libtiff-4.pc"
sed -i 's/^Libs: .*/Libs: -L${libdir} -lde265 -lstdc++ -lpthread -lm/' "$prefix/lib/pkgconfig/libde265.pc"
sed -i 's/^Libs: .*/Libs: -L${libdir} -lheif -lde265 -laom -lstdc++ -lpthread -lm/' \
    "$prefix/lib/pkgconfig/libheif.pc"
