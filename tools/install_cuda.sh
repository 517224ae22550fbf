#!/usr/bin/env bash
# Installs the CUDA compiler and the static CUDA runtime in a manylinux_2_28 container (AlmaLinux 8),
# from NVIDIA's package repository: what the wheels' kernels are built with, about 500 MB. Run by
# cibuildwheel before the build.
#
# usage: tools/install_cuda.sh [VERSION]    12.9, if not given: the release's
set -euo pipefail
version=${1:-12.9}
case $(uname -m) in
  x86_64) platform=x86_64 ;;
  aarch64) platform=sbsa ;;
  *)
    echo "install_cuda.sh: NVIDIA has no CUDA for this machine. Received: $(uname -m)" >&2
    exit 1
    ;;
esac
suffix=${version/./-}
dnf install -y -q dnf-plugins-core
dnf config-manager --add-repo \
  "https://developer.download.nvidia.com/compute/cuda/repos/rhel8/$platform/cuda-rhel8.repo"
# nvcc; cuda_runtime.h and libcudart_static.a; nv/target, which cuda_fp16.h includes.
dnf install -y -q "cuda-nvcc-$suffix" "cuda-cudart-devel-$suffix" "cuda-cccl-$suffix"
"/usr/local/cuda-$version/bin/nvcc" --version
