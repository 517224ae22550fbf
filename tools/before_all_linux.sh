#!/usr/bin/env bash
# What cibuildwheel runs once in a manylinux container, before the wheels of all Pythons: installs
# CUDA and builds the kernels that they share.
#
# usage: tools/before_all_linux.sh CUDA_VERSION FOLDER
set -euo pipefail
if (($# != 2)); then
  echo "usage: tools/before_all_linux.sh CUDA_VERSION FOLDER" >&2
  exit 2
fi
tools=$(dirname "$0")
"$tools/install_cuda.sh" "$1"
python=$(compgen -G '/opt/python/cp312-cp312/bin/python')
"$python" -m venv /tmp/build_tools
/tmp/build_tools/bin/pip install -q cmake ninja
PATH=/tmp/build_tools/bin:/usr/local/cuda-$1/bin:$PATH "$tools/build_core.sh" "$2" -G Ninja \
  -DSWA_FAST_CUDA=ON -DSWA_FAST_OPENMP=ON
