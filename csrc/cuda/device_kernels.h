// The kernels compiled for CUDA devices.
#pragma once

#include "cuda/kernel.h"

namespace swa_fast::cuda {

const KernelTable& device_kernels();

}  // namespace swa_fast::cuda
