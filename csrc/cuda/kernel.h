// What the device code provides: one launcher per operation and pair of types. No CUDA header.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace swa_fast::cuda {

// Queues one kernel with `blocks` blocks of kThreads on a stream of the current device. `table` is
// its argument, which is copied. Returns a cudaError_t, 0 for success.
using Launcher = int (*)(const void* table, uint32_t blocks, void* stream);

struct Kernel {
  const char* name;
  int dst_size;  // bytes per element
  int src_size;
  Launcher small;  // tables of kSmallArguments
  Launcher large;  // tables of kLargeArguments
};

// Sizes of the units that bits are moved in: 1, 2, 4 and 8 bytes.
inline constexpr int kNumUnits = 4;

struct KernelTable {
  // dst += weight * (src - dst), by [storage of dst][storage of src].
  Kernel lerp[kNumStorageTypes][kNumStorageTypes];
  // dst = (dst * weight + src) / (weight + 1): `weight` is the number of values in dst.
  Kernel tfa_mean[kNumStorageTypes][kNumStorageTypes];
  // dst = src converted; of one type, its bits.
  Kernel cast[kNumStorageTypes][kNumStorageTypes];
  // By binary logarithm of the unit's size.
  Kernel copy[kNumUnits];
  Kernel swap[kNumUnits];
  // Weighted sums of any sources, by storage of the output; src_size says nothing.
  Kernel combine[kNumStorageTypes];
  // Raises a gate's flag where a value is not finite, by storage of the values.
  Kernel check[kNumStorageTypes];
  // Ends a gated snapshot: takes a Counting, in one block.
  Launcher count;
};

}  // namespace swa_fast::cuda
