#!/usr/bin/env bash
# Runs the whole Python test suite against built wheels, one per Python: what is tested is what was
# installed, with the packages that pyproject.toml pins for tests; no source tree can be imported.
#
# usage: tools/test_wheels.sh DIST PYTHON...
#
#   Each PYTHON gets a fresh environment with the wheel of its version from the folder DIST.
#   PACKAGES=link       instead of downloading them, uses the packages that PYTHON itself has
#   PACKAGES=core       no framework, as in cibuildwheel's test of a wheel
#   PYTEST_ARGS="..."   further arguments for pytest, e.g. "-k threads"
set -euo pipefail
if (($# < 2)); then
  echo "usage: tools/test_wheels.sh DIST PYTHON..." >&2
  exit 2
fi
source_dir=$(cd "$(dirname "$0")/.." && pwd)
dist=$(cd "$1" && pwd)
shift
export PIP_DISABLE_PIP_VERSION_CHECK=1 TF_CPP_MIN_LOG_LEVEL=2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()

for python in "$@"; do
  tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  wheels=("$dist"/swa_fast-*-"$tag"-"$tag"-*.whl)
  if [[ ! -e ${wheels[0]} || ${#wheels[@]} != 1 ]]; then
    echo "test_wheels.sh: DIST must have one wheel for $tag. Received: ${wheels[*]}" >&2
    exit 1
  fi
  printf '\n== %s on %s\n' "$(basename "${wheels[0]}")" "$("$python" --version)"
  venv=$work/$tag
  if [[ ${PACKAGES:-} == link ]]; then
    "$python" -m venv --without-pip "$venv"
    "$python" -m pip --python "$venv/bin/python" install -q --no-deps "${wheels[0]}"
    "$python" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
      >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])')/link.pth"
  else
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -q --upgrade pip # --group is new in pip 25.1
    packages=("${wheels[0]}[test]")
    if [[ ${PACKAGES:-} == core ]]; then
      packages=("${wheels[0]}" --group "$source_dir/pyproject.toml:test-core")
    fi
    "$venv/bin/python" -m pip install -q "${packages[@]}"
  fi
  # The tests read README, docs and examples beside them: a copy of those, and nothing to import.
  tree=$work/tree-$tag
  mkdir "$tree"
  (cd "$source_dir" && git ls-files -z -- . ':!python' | xargs -0 cp --parents -t "$tree")
  read -r -a arguments <<<"${PYTEST_ARGS:-}"
  (cd "$tree" && "$venv/bin/python" -m pytest -q "${arguments[@]}") || failed+=("$tag")
done

if ((${#failed[@]} > 0)); then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "all passed"
