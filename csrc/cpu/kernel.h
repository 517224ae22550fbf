// What an instruction set provides: one function per operation and pair of storage types, each
// working on a range of elements with raw pointers. No exceptions, no allocation, no Python.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/op.h"

namespace swa_fast::cpu {

// `count` elements from `dst` and `src` on. dst == src is allowed; no other overlap is.
using RangeKernel = void (*)(void* dst, void* src, int64_t count, const Weight& weight);

// The most sources that are added to a sum in one pass.
constexpr int kMostTerms = 4;

// Adds sources[k][i] * weights[k] to sums[i], for k in rising order, each operation rounded.
using SumKernel = void (*)(double* sums, const char* const* sources, const double* weights,
                           int64_t count);

struct KernelTable {
  const char* isa;
  // dst += weight * (src - dst), by [storage of dst][storage of src].
  RangeKernel lerp[kNumStorageTypes][kNumStorageTypes];
  // dst = (dst * weight + src) / (weight + 1): `weight` is the number of values in dst.
  RangeKernel tfa_mean[kNumStorageTypes][kNumStorageTypes];
  // dst = src converted; of one type, its bits.
  RangeKernel cast[kNumStorageTypes][kNumStorageTypes];
  // By [storage of the sources][number of sources - 1]. start_sums does not read what is in `sums`:
  // the sum begins with the first product.
  SumKernel start_sums[kNumStorageTypes][kMostTerms];
  SumKernel add_to_sums[kNumStorageTypes][kMostTerms];
  // Any element type; `count` is in bytes.
  RangeKernel copy_bytes;
  RangeKernel swap_bytes;
};

// Compiled for the floor of the build's target: SSE2 on x86-64, NEON on aarch64.
const KernelTable& baseline_kernels();
#if defined(__x86_64__)
const KernelTable& avx2_kernels();    // AVX2 and F16C
const KernelTable& avx512_kernels();  // AVX-512 F, BW, DQ and VL
#endif

}  // namespace swa_fast::cpu
