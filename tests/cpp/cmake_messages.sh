#!/bin/sh
# Whoever builds from source and lacks something is told what, in one sentence.
#
# usage: cmake_messages.sh CMAKE SOURCE_DIR GENERATOR MAKE_PROGRAM
cmake=$1
source_dir=$2
generator=$3
make_program=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset CXX CXXFLAGS CMAKE_ARGS
status=0

# expect TEXT OPTION...: configuring fails, and the message, on one line, has the text.
expect() {
  text=$1
  shift
  rm -rf "$work/build"
  if "$cmake" -S "$source_dir" -B "$work/build" -G "$generator" \
    -DCMAKE_MAKE_PROGRAM="$make_program" "$@" >"$work/out" 2>&1; then
    echo "configured with $*, where an error was due: $text"
    status=1
  elif ! tr -s '\n ' '  ' <"$work/out" | grep -qF "$text"; then
    echo "with $*, no '$text' in:"
    cat "$work/out"
    status=1
  fi
}

expect "SWA_FAST_OPENMP must be AUTO, ON or OFF. Received: MAYBE" -DSWA_FAST_OPENMP=MAYBE
expect "SWA_FAST_CUDA must be AUTO, ON or OFF. Received: MAYBE" -DSWA_FAST_CUDA=MAYBE
expect "SWA_FAST_CORE_DIR must be a build folder of swa_fast" -DSWA_FAST_CUDA=OFF \
  -DSWA_FAST_CORE_DIR="$work"
expect "SWA_FAST_BUNDLE_LIBGOMP is ON, but there is no OpenMP in this build" -DSWA_FAST_CUDA=OFF \
  -DSWA_FAST_OPENMP=OFF -DSWA_FAST_BUNDLE_LIBGOMP=ON -DSWA_FAST_BUILD_TESTS=OFF

# A machine with the tools that CMake itself needs, and no compiler.
mkdir "$work/bin"
for tool in sh uname sed; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done
PATH=$work/bin
export PATH
cmake=$(command -v "$cmake" || echo "$cmake")
rm() { /bin/rm "$@"; }
tr() { /usr/bin/tr "$@"; }
grep() { /bin/grep "$@"; }
cat() { /bin/cat "$@"; }
expect "swa-fast needs a C++17 compiler (GCC 9 or newer, or Clang 10 or newer), and none was found:"
exit $status
