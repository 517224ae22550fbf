// The kernels for x86-64 with AVX-512 F, BW, DQ and VL. Only what stands between the region's two
// ends is compiled for them; every header comes before.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "cpu/kernel.h"

namespace swa_fast::cpu {

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif

namespace avx512 {
namespace {

// The unmasked forms draw a false warning about uninitialised values from GCC 12's own header;
// with every lane selected the same instruction comes out.
constexpr __mmask16 kAllLanes = 0xffff;

inline void half_to_float(float* to, const Float16* from, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    _mm512_storeu_ps(to + i, _mm512_maskz_cvtph_ps(kAllLanes, half));
  }
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

inline void float_to_half(Float16* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i half =
        _mm512_maskz_cvtps_ph(kAllLanes, _mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), half);
  }
  for (; i < count; ++i) to[i] = to_float16(from[i]);
}

#include "cpu/loop.inc"

}  // namespace
}  // namespace avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

// Called only where the CPU can run them: building the table already does.
const KernelTable& avx512_kernels() {
  static const KernelTable table = avx512::make_table("avx512", StorageTypes{});
  return table;
}

}  // namespace swa_fast::cpu
#endif  // __x86_64__
