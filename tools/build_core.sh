#!/usr/bin/env bash
# Builds what the wheels of all Pythons share, the kernels for CPU and CUDA, once.
#
# usage: tools/build_core.sh FOLDER [CMAKE OPTION...]
#
# A wheel then links them with -DSWA_FAST_CORE_DIR=FOLDER and the same options.
set -euo pipefail
if (($# == 0)); then
  echo "usage: tools/build_core.sh FOLDER [CMAKE OPTION...]" >&2
  exit 2
fi
folder=$1
shift
source_dir=$(cd "$(dirname "$0")/.." && pwd)
cmake -S "$source_dir" -B "$folder" "$@"
cmake --build "$folder" --target swa_fast_core --parallel "$(getconf _NPROCESSORS_ONLN)"
