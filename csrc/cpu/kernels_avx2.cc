// The kernels for x86-64 with AVX2 and F16C. Only what stands between the region's two ends is
// compiled for them; every header comes before.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "cpu/kernel.h"

namespace swa_fast::cpu {

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif

namespace avx2 {
namespace {

inline void half_to_float(float* to, const Float16* from, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
  }
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

inline void float_to_half(Float16* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
  }
  for (; i < count; ++i) to[i] = to_float16(from[i]);
}

#include "cpu/loop.inc"

}  // namespace
}  // namespace avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

// Called only where the CPU can run them: building the table already does.
const KernelTable& avx2_kernels() {
  static const KernelTable table = avx2::make_table("avx2", StorageTypes{});
  return table;
}

}  // namespace swa_fast::cpu
#endif  // __x86_64__
