#!/bin/bash
# Everything that needs a GPU, in one command: builds for it, runs the C++ test plain and under
# compute-sanitizer, the Python tests and the benchmark, and says in one table how each step went.
# A step that reaches its limit is ended, and the others still run. The limits of all steps add up to
# less than 6 minutes.
#
# usage: tests/gpu/run.sh [FOLDER]    the results go to FOLDER (default: $OUT, or a new one)
#
#   summary.txt                              the table, and how the output of failed steps ends
#   machine.txt                              the machine, its GPU, and how swa_fast was built
#   build.txt, cpp.txt, pytest.txt, bench.txt    what the steps printed
#   bench.json                               the benchmark's numbers
#
# Needs nvcc and the C++ compiler that it uses, CMake from 3.24 on with ninja or make (installed, or as
# packages of that Python), and a Python with pip, NumPy, torch for CUDA, pytest, pybind11 and
# scikit-build-core. Nothing else has to be there; compute-sanitizer is used if it is. Nothing comes
# from the network, unless a package that the command swa-fast imports is missing.
#
#   PYTHON=python3                     the Python
#   SWA_FAST_CUDA_ARCHITECTURES=90     the machine code to build
#   LIMIT_PERCENT=300                  longer limits, for a slower machine
set -uo pipefail
set -m # each step is a process group of its own, so that it can be ended with all its children
cd "$(dirname "$0")/../.." || exit
out=${1:-${OUT:-$(mktemp -d)}}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
architectures=${SWA_FAST_CUDA_ARCHITECTURES:-90}
build=$PWD/build/gpu-${architectures//[^a-z0-9-]/_}
cpp_test=$build/tests/cpp/cuda_gpu_test
grace=5 # seconds to end in, for a step that has reached its limit, before it is killed
export PYTHONPATH=$build/site:$build/requirements${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset SWA_FAST_TEST_DEVICE # what lets the tests run without a GPU

running=
end_running() {
  [[ -n $running ]] || return 0
  kill -TERM -- "-$running" 2>/dev/null
  for ((i = 0; i < 10 * grace; ++i)); do
    kill -0 -- "-$running" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL -- "-$running" 2>/dev/null
  running=
}
trap end_running EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

declare -A results=() begun=()
ends=() # of what failed steps have printed
printf '%-8s %-17s %7s %6s   %s\n' result step seconds limit "last line" >"$out/summary.txt"

# note RESULT STEP SECONDS LIMIT TEXT: a row of the table, written at once: whoever is ended from
# outside leaves those that there are.
note() {
  results[$2]=$1
  printf '%-8s %-17s %7s %6s   %.100s\n' "$@" >>"$out/summary.txt"
}

# step LOG NAME LIMIT AFTER COMMAND...: runs the command for at most LIMIT seconds, if the step AFTER
# went well ("-": whatever has happened). What it prints goes to the end of LOG.txt.
step() {
  local log=$out/$1.txt name=$2 limit=$(($3 * ${LIMIT_PERCENT:-100} / 100)) after=$4
  local begin=$SECONDS result=ok pid
  shift 4
  ((limit >= 5)) || limit=5
  if [[ $after != - && ${results[$after]} != ok ]]; then
    note "not run" "$name" 0 "$limit" "because of the step $after"
    return
  fi
  printf '[%3d s] %s, at most %d s\n' "$SECONDS" "$name" "$limit" >&2
  [[ -n ${begun[$log]:-} ]] || : >"$log"
  begun[$log]=1
  printf '== %s: %s\n' "$name" "$*" >>"$log"
  "$@" </dev/null >>"$log" 2>&1 &
  pid=$!
  running=$pid
  while kill -0 "$pid" 2>/dev/null && ((SECONDS - begin < limit)); do sleep 0.2; done
  kill -0 "$pid" 2>/dev/null && result=CUT
  end_running # or what it has left behind
  # What even a kill does not end is not waited for.
  if ! kill -0 "$pid" 2>/dev/null && ! wait "$pid" 2>/dev/null && [[ $result == ok ]]; then
    result=FAILED
  fi
  note "$result" "$name" "$((SECONDS - begin))" "$limit" "$(tail -n 1 "$log")"
  [[ $result == ok ]] || ends+=("
$result: $name. The end of ${log##*/}:
$(tail -n 20 "$log" | sed 's/^/    /')")
}

describe_machine() {
  date -u
  uname -srm
  echo "$(nproc) CPUs: $(grep -m 1 'model name' /proc/cpuinfo)"
  nvcc --version
  "$python" -c 'import sys; print("Python", sys.version)'
  "$python" -c 'import numpy, torch; print("NumPy", numpy.__version__, "torch", torch.__version__)'
  nvidia-smi && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
}

# One build makes the package and the C++ test. Without an environment of its own: the torch that is
# there is what is tested with.
build_all() {
  rm -rf "$build/site" "$cpp_test"
  "$python" -m pip install -v --no-deps --no-build-isolation --no-index --target "$build/site" \
    --config-settings=build-dir="$build" \
    --config-settings=build.targets="_core;_cpu_floor;cuda_gpu_test" \
    --config-settings=cmake.define.SWA_FAST_BUILD_TESTS=ON \
    --config-settings=cmake.define.SWA_FAST_CUDA=ON \
    --config-settings=cmake.define.SWA_FAST_CUDA_ARCHITECTURES="$architectures" . &&
    "$python" -c 'import swa_fast, sys
print("swa_fast is", swa_fast.__file__)
sys.exit(not swa_fast.__file__.startswith(sys.argv[1]))' "$build/site"
}

# What the command swa-fast imports beside NumPy: nothing is done where it is installed.
provide_requirements() {
  local missing
  missing=$("$python" -c '
import importlib.metadata as metadata, re
for line in metadata.requires("swa-fast"):
    try:
        "extra ==" in line or metadata.version(re.match(r"[\w.-]+", line)[0])
    except metadata.PackageNotFoundError:
        print(line.replace(" ", ""))') || return 1
  [[ -n $missing ]] || { echo "all there" && return; }
  # shellcheck disable=SC2086  # one requirement a word
  "$python" -m pip install --retries 0 --timeout 5 --target "$build/requirements" --upgrade $missing ||
    { echo "swa-fast needs" $missing && return 1; }
}

# The project's own settings, without the options that refuse a setting of an absent plug-in: pytest
# alone is enough. A test that hangs is named by its traceback, and with pytest-timeout ended. Where
# every test is skipped, nothing was tested.
run_pytest() {
  "$python" -m pytest -m gpu -q -ra --durations=3 -p no:cacheprovider -o addopts= \
    -o faulthandler_timeout=20 -o timeout=25 --import-mode=importlib \
    -W ignore::pytest.PytestConfigWarning tests/python/gpu &&
    tail -n 1 "$out/pytest.txt" | grep -qE '\b[0-9]+ passed'
}

# A further step is a line here. It shares one of these logs, since at most 8 files may be left, and the
# others give it their time.
swa_fast=$build/site/bin/swa-fast
#    log     step         limit after
step machine machine      10 - describe_machine
step build   build        95 - build_all
step machine info         10 build "$swa_fast" info
step cpp     cpp          15 build "$cpp_test"
if sanitizer=$(command -v compute-sanitizer); then
  # One test asks for a device that is not there: an error of CUDA's, which the test itself expects.
  step cpp memcheck       40 build "$sanitizer" --tool memcheck --report-api-errors no \
    --error-exitcode 1 "$cpp_test"
  # racecheck is for shared memory, which the kernels do not use; initcheck for what was never written.
  step cpp racecheck      15 build "$sanitizer" --tool racecheck --error-exitcode 1 \
    "$cpp_test" five_thousand
  step cpp initcheck      15 build "$sanitizer" --tool initcheck --error-exitcode 1 \
    "$cpp_test" lerp_has
else
  note absent compute-sanitizer 0 0 "not on the PATH"
fi
step pytest pytest        65 build run_pytest
step build  requirements  15 build provide_requirements
step bench  bench         70 requirements "$swa_fast" bench --device cuda --seconds 2 \
  --json "$out/bench.json"

((${#ends[@]} == 0)) || printf '%s\n' "${ends[@]}" >>"$out/summary.txt"
echo
cat "$out/summary.txt"
echo "The results are in $out."
! grep -qE '^(FAILED|CUT|not run) ' "$out/summary.txt"
