// In the place of runtime.cu and kernels.cu where the build has no CUDA.
#include "cuda/backend.h"

#ifndef SWA_FAST_CUDA_REASON
#define SWA_FAST_CUDA_REASON "it was built without CUDA"
#endif

namespace swa_fast::cuda {

const Backend* built_backend(std::string* reason) {
  *reason = "this build of swa_fast has no CUDA support (" SWA_FAST_CUDA_REASON
            "): build it with nvcc and SWA_FAST_CUDA=ON, or move the tensors to the CPU";
  return nullptr;
}

void describe(Info* info) { info->built = false; }

}  // namespace swa_fast::cuda
