#!/usr/bin/env bash
# Is an older CPU told so? Builds swa_fast for AVX2 machines, imports it on an emulated CPU without
# AVX2, and expects an ImportError that names what is missing; then on one with it, and expects that
# it works. A build without flags must work on both.
#
# usage: tools/check_cpu_floor.sh [PYTHON]
#
# On x86-64. Needs a C++ compiler, qemu-x86_64-static (Debian, Ubuntu: qemu-user-static) and a Python
# with NumPy, or the network to install it. A few minutes: the emulation is slow.
set -euo pipefail
source_dir=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
qemu=$(command -v qemu-x86_64-static) || {
  echo "check_cpu_floor.sh: qemu-x86_64-static was not found (apt-get install qemu-user-static)" >&2
  exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

build() { # NAME FLAGS
  "$python" -m venv --system-site-packages "$work/$1"
  CXXFLAGS=$2 CMAKE_ARGS="-DSWA_FAST_CUDA=OFF" "$work/$1/bin/python" -m pip install -q \
    --force-reinstall --no-deps --config-settings "build-dir=$work/build-$1" "$source_dir"
  "$work/$1/bin/python" -c 'import numpy' 2>/dev/null ||
    "$work/$1/bin/python" -m pip install -q --only-binary=:all: numpy
}
on_cpu() { # CPU NAME SCRIPT-OR-ARGUMENTS...
  local cpu=$1 name=$2
  shift 2
  # From the root: the source tree must not be what is imported.
  (cd / && OMP_NUM_THREADS=1 timeout 900 "$qemu" -cpu "$cpu" "$work/$name/bin/python" "$@")
}
example='
import numpy as np, swa_fast
a = [np.zeros(1000, np.float32)]
swa_fast.running_mean_(a, [np.ones(1000, np.float32)], 1)
assert (a[0] == 0.5).all()
print("works:", swa_fast.build_info()["isa"], "of", swa_fast.build_info()["isas"])'

build newer "-march=x86-64-v3"
build plain ""

echo "== built for AVX2, on a Nehalem (SSE4.2)"
if on_cpu Nehalem newer -c "$example" >"$work/out" 2>&1; then
  cat "$work/out"
  echo "WRONG: it was imported" >&2
  exit 1
fi
tail -1 "$work/out"
grep -q "^ImportError: this build of swa_fast was compiled for a newer CPU: it needs .*avx2" "$work/out"
echo "== built for AVX2, on a Haswell"
on_cpu Haswell newer -c "$example"
echo "== built without flags, on a Nehalem"
on_cpu Nehalem plain -c "$example"
echo "== built without flags, on a Haswell"
on_cpu Haswell plain -c "$example"
