// The weight of a running mean whose count is in device memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "core/float16.h"

namespace swa_fast::cuda {

// 1 / (count + 1), correctly rounded to Compute: the bits of mean_weight() in weight.h. NaN for a
// count below 0 or above 2^53 - 1, which the host would have refused: averages of NaN are seen.
template <class Compute>
SWA_FAST_HOST_DEVICE Compute counter_weight(int64_t count) {
  if (count < 0 || count > (int64_t{1} << 53) - 1) {
    return bit_cast<float>(0x7fc00000u);
  }
  const double n = static_cast<double>(count + 1);
  const double quotient = 1.0 / n;
  if constexpr (std::is_same_v<Compute, double>) {
    return quotient;
  } else {
    // The exact remainder says on which side of the quotient the true value lies. With the last
    // bit set accordingly ("round to odd") a second rounding gives what one would have given.
    const double remainder = fma(-quotient, n, 1.0);
    uint64_t bits = bit_cast<uint64_t>(quotient);
    if (remainder != 0.0 && (bits & 1) == 0) bits += remainder > 0.0 ? 1 : -1;
    return static_cast<float>(bit_cast<double>(bits));
  }
}

}  // namespace swa_fast::cuda
