// The kernels for the floor of the build's target. No region of its own: the compiler's defaults.
#include <cstring>
#include <utility>

#include "cpu/kernel.h"

namespace swa_fast::cpu {
namespace baseline {
namespace {

#if defined(__aarch64__)
// Every aarch64 converts float16 in hardware; compilers vectorise the plain cast.
inline void half_to_float(float* to, const Float16* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = bit_cast<__fp16>(from[i].bits);
}
inline void float_to_half(Float16* to, const float* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    to[i].bits = bit_cast<uint16_t>(static_cast<__fp16>(from[i]));
  }
}
#else
inline void half_to_float(float* to, const Float16* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
inline void float_to_half(Float16* to, const float* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = to_float16(from[i]);
}
#endif

#include "cpu/loop.inc"

}  // namespace
}  // namespace baseline

const KernelTable& baseline_kernels() {
  static const KernelTable table = baseline::make_table("baseline", StorageTypes{});
  return table;
}

}  // namespace swa_fast::cpu
