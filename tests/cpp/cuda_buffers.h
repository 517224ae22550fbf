// Tensors that are said to be on CUDA devices.
#pragma once

#include <type_traits>
#include <vector>

#include "buffers.h"

inline swa_fast::Device cuda_device(int index) { return {swa_fast::DeviceType::kCuda, index, 2}; }

inline std::vector<swa_fast::Buffer> on_cuda(std::vector<swa_fast::Buffer> buffers, int index = 0) {
  for (swa_fast::Buffer& buffer : buffers) buffer.device = cuda_device(index);
  return buffers;
}

template <class T>
constexpr swa_fast::DType dtype_of() {
  if constexpr (std::is_same_v<T, swa_fast::BFloat16>) return kBFloat16;
  return {swa_fast::kCodeFloat, 8 * sizeof(T)};
}
