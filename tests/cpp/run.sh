#!/bin/sh
# Builds the C++ tests with warnings as errors and runs them.
#
# usage: tests/cpp/run.sh [SANITIZERS]
#   tests/cpp/run.sh                      as users get it, in build/cpp-plain
#   tests/cpp/run.sh address,undefined    in build/cpp-address-undefined
#
# Needs CMake, a C++ compiler and ninja or make; no Python, nothing from the network. Further
# arguments for CMake and for ctest come from CMAKE_ARGS and CTEST_ARGS.
#
# Not part of CI: the NEON kernels, on an emulated aarch64 (Debian: g++-aarch64-linux-gnu,
# qemu-user-static); the slowest float sweep, over every float instead of each 101st:
#   CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
#     -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DSWA_FAST_CUDA=OFF
#     -DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64-static;-L;/usr/aarch64-linux-gnu"
#     BUILD_NAME=aarch64 tests/cpp/run.sh
#   SWA_FAST_TEST_STRIDE=1 build/cpp-plain/tests/cpp/float16_test all_floats
set -eu

sanitizers=${1:-}
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
name=${BUILD_NAME:-$(echo "${sanitizers:-plain}" | tr ',' '-')}
build_dir=$source_dir/build/cpp-$name
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

generator=
if [ ! -e "$build_dir/CMakeCache.txt" ] && command -v ninja >/dev/null 2>&1; then
  generator="-G Ninja"
fi
# shellcheck disable=SC2086  # words are meant to be split
cmake -S "$source_dir" -B "$build_dir" $generator -DSWA_FAST_BUILD_TESTS=ON \
  -DSWA_FAST_DEVELOPER=ON -DSWA_FAST_SANITIZE="$sanitizers" ${CMAKE_ARGS:-}
cmake --build "$build_dir" --parallel "$jobs"

# A sanitizer's finding ends the test that made it.
export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
# The tests look after their own threads: a setting from outside would change what they expect.
unset OMP_NUM_THREADS OMP_THREAD_LIMIT SWA_FAST_ISA SWA_FAST_TEST_THREADS
cd "$build_dir"
# shellcheck disable=SC2086
exec ctest --output-on-failure --no-tests=error ${CTEST_ARGS:-}
