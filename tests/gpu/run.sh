#!/bin/bash
# Everything that needs a GPU, in one command: builds for it, runs the C++ test plain and under
# compute-sanitizer, the Python tests, and the benchmark; prints a short table last.
#
# usage: tests/gpu/run.sh [FOLDER]    logs and results go to FOLDER (default: $OUT or a new one)
#
# Needs nvcc, CMake, ninja, and a Python with torch for CUDA, pybind11 and scikit-build-core. Nothing
# comes from the network. SWA_FAST_CUDA_ARCHITECTURES chooses the machine code (default: 90).
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-${OUT:-$(mktemp -d)}}
mkdir -p "$out"
arch=${SWA_FAST_CUDA_ARCHITECTURES:-90}
python=${PYTHON:-python3}
build=build/gpu-$arch
declare -a table=()
failed=0

# step NAME COMMAND...: runs it into a log of its own and notes how it went.
step() {
  local name=$1 begin=$SECONDS
  shift
  if "$@" >"$out/$name.log" 2>&1; then
    table+=("ok      $name ($((SECONDS - begin)) s): $(tail -n 1 "$out/$name.log" | cut -c1-100)")
  else
    table+=("FAILED  $name ($((SECONDS - begin)) s), end of its log:
$(tail -n 25 "$out/$name.log")")
    failed=1
  fi
}

build_tests() {
  cmake -S . -B "$build" -G Ninja -DSWA_FAST_BUILD_TESTS=ON -DSWA_FAST_CUDA=ON \
    -DSWA_FAST_CUDA_ARCHITECTURES="$arch" && cmake --build "$build" --target cuda_gpu_test
}

# Without an environment of its own: the image's torch is what is tested with.
install_package() {
  "$python" -m pip install --no-deps --no-build-isolation --no-index --target "$build/site" --upgrade \
    --config-settings=cmake.define.SWA_FAST_CUDA=ON \
    --config-settings=cmake.define.SWA_FAST_CUDA_ARCHITECTURES="$arch" .
}

nvidia-smi >"$out/nvidia-smi.log" 2>&1
step build-tests build_tests
step cpp "$build/tests/cpp/cuda_gpu_test"
if command -v compute-sanitizer >/dev/null; then
  step memcheck compute-sanitizer --tool memcheck --error-exitcode 1 "$build/tests/cpp/cuda_gpu_test"
  # racecheck is for shared memory, which the kernels do not use; initcheck for what was never written.
  step racecheck compute-sanitizer --tool racecheck --error-exitcode 1 \
    "$build/tests/cpp/cuda_gpu_test" five_thousand
  step initcheck compute-sanitizer --tool initcheck --error-exitcode 1 \
    "$build/tests/cpp/cuda_gpu_test" lerp_has
else
  table+=("absent  compute-sanitizer")
fi
step install install_package
export PYTHONPATH=$PWD/$build/site${PYTHONPATH:+:$PYTHONPATH}
step info "$python" -m swa_fast._cli info
# The project's own options name plug-ins that this Python may not have.
step pytest "$python" -m pytest -m gpu -q -rs -p no:cacheprovider -c /dev/null --rootdir . \
  --import-mode=importlib -W ignore::pytest.PytestUnknownMarkWarning tests/python/gpu
step bench "$python" -m swa_fast._cli bench --device cuda --seconds 4 --json "$out/bench.json" \
  --model mobilenet_v3_large --model efficientnet_b0 --model resnet50 --model bert_base \
  --model gpt2 --model llama_1b

head -n 20 "$out/nvidia-smi.log" | grep -E "Driver|MiB" || true
cat "$out/info.log" "$out/bench.log" 2>/dev/null
printf '\n'
printf '%s\n' "${table[@]}"
exit $failed
