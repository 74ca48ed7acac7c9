#!/bin/sh
# Fuzzes the decoders of one target.
#
#   fuzz/run.sh jpeg|tiff|heif|webp|others SECONDS [DIRECTORY]
#   fuzz/run.sh TARGET FILE                    runs a single input
#
# DIRECTORY has files to start from: see fuzz/seeds.py. The fuzzer keeps inputs that reach new code in
# fuzz/corpus/TARGET, and starts from them the next time.
#
# The exit status is 0 if no input crashed, leaked, took more than 25 seconds or too much memory.
# Otherwise the input that failed is in fuzz/artifacts/TARGET.
set -eu

cd "$(dirname "$0")/.."
target=$1
libraries=$PWD/fuzz/target/libraries
for library in libheif libwebpdemux; do
    [ -e "$libraries/lib/pkgconfig/$library.pc" ] || fuzz/build-libraries.sh
done
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --version 0.13.2 --locked

# Lets stable Rust accept the unstable option for the sanitizer.
export RUSTC_BOOTSTRAP=1
export PKG_CONFIG_PATH="$libraries/lib/pkgconfig"
# For libjpeg-turbo and the C and C++ files of src/image.
export CC=clang CXX=clang++
export CFLAGS="-fsanitize=address,fuzzer-no-link -g -O1 -fno-omit-frame-pointer"
export CXXFLAGS="$CFLAGS"
# An allocation that is too large returns NULL, as with malloc, rather than ending the process.
export ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

corpus=fuzz/corpus/$target
mkdir -p "$corpus"
if [ -f "$2" ]; then
    exec cargo fuzz run "$target" "$2"
fi
[ -z "${3:-}" ] || cp -n "$3"/* "$corpus"/
# The targets decode with a limit of 64 MB, so an allocation of more than twice that is a failure.
exec cargo fuzz run "$target" "$corpus" -- -max_total_time="$2" -max_len=65536 -timeout=25 \
    -rss_limit_mb=2048 -malloc_limit_mb=128 -print_final_stats=1
