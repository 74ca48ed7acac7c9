#!/bin/sh
# Fuzzes the decoders of one kind of picture.
#
#   fuzz/run.sh jpeg|tiff|heif|webp|others SECONDS [DIRECTORY]
#   fuzz/run.sh TARGET FILE                    runs one input, a reproducer
#
# DIRECTORY has files to start from: see fuzz/seeds.py. What the fuzzer finds of worth it keeps in
# fuzz/corpus/TARGET, and starts from there the next time.
#
# The exit status is 0 where no input crashed, leaked, took more than 25 seconds or too much memory.
# Otherwise the input is in fuzz/artifacts/TARGET.
set -eu

cd "$(dirname "$0")/.."
target=$1
libraries=$PWD/fuzz/target/libraries
for library in libheif libwebpdemux; do
    [ -e "$libraries/lib/pkgconfig/$library.pc" ] || fuzz/build-libraries.sh
done
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --version 0.13.2 --locked

# The sanitizer is a flag that stable Rust keeps for itself.
export RUSTC_BOOTSTRAP=1
export PKG_CONFIG_PATH="$libraries/lib/pkgconfig"
# libjpeg-turbo and the C and C++ files of src/image.
export CC=clang CXX=clang++
export CFLAGS="-fsanitize=address,fuzzer-no-link -g -O1 -fno-omit-frame-pointer"
export CXXFLAGS="$CFLAGS"
# As malloc does, and unlike the sanitizer, nothing is given where too much is asked for.
export ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

corpus=fuzz/corpus/$target
mkdir -p "$corpus"
if [ -f "$2" ]; then
    exec cargo fuzz run "$target" "$2"
fi
[ -z "${3:-}" ] || cp -n "$3"/* "$corpus"/
# A file may take 64 MB, hence no block of more than twice that.
exec cargo fuzz run "$target" "$corpus" -- -max_total_time="$2" -max_len=65536 -timeout=25 \
    -rss_limit_mb=2048 -malloc_limit_mb=128 -print_final_stats=1
