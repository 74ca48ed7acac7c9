#!/bin/sh
# Fuzzes the decoders of one kind of picture.
#
#   fuzz/run.sh jpeg|tiff|heif|others SECONDS [DIRECTORY of seeds]
#
# The exit status is 0 where no input crashed, took more than 20 seconds or 1 GB.
set -eu

cd "$(dirname "$0")/.."
target=$1 seconds=$2 seeds=${3:-}
libraries=$PWD/fuzz/target/libraries
[ -e "$libraries/lib/pkgconfig/libheif.pc" ] || fuzz/build-libraries.sh
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --version 0.13.2 --locked

# The sanitizer is a flag that stable Rust keeps for itself.
export RUSTC_BOOTSTRAP=1
export PKG_CONFIG_PATH="$libraries/lib/pkgconfig"
# libjpeg-turbo and the C files of src/image.
export CC=clang CXX=clang++ CFLAGS="-fsanitize=address,fuzzer-no-link -g -O1"
# C++ exceptions of libheif leave memory behind in its own code.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
corpus=fuzz/corpus/$target
mkdir -p "$corpus"
[ -z "$seeds" ] || cp -n "$seeds"/* "$corpus"/
exec cargo fuzz run --release "$target" "$corpus" -- -max_total_time="$seconds" -max_len=65536 \
    -timeout=20 -rss_limit_mb=1024 -print_final_stats=1
