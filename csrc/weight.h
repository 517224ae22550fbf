// The weight of a new value in a mean: 1 / (count + 1), rounded once.
#pragma once

#include <cmath>
#include <cstdint>

#include "element_op.h"

namespace swa_fast {

// Largest `count` for which count + 1 is exact in double: 2^53 - 1.
inline constexpr int64_t kMaxCount = (int64_t{1} << 53) - 1;

// 1 / (count + 1) correctly rounded to double, and to float without a double rounding: the
// quotient's exact remainder tells on which side of it the true value lies, and the last bit is
// set accordingly ("round to odd") before narrowing.
inline Weight mean_weight(int64_t count) {
  const double n = static_cast<double>(count + 1);
  const double quotient = 1.0 / n;
  const double remainder = std::fma(-quotient, n, 1.0);
  uint64_t bits = bit_cast<uint64_t>(quotient);
  if (remainder != 0.0 && (bits & 1) == 0) bits += remainder > 0.0 ? 1 : -1;
  return {static_cast<float>(bit_cast<double>(bits)), quotient};
}

inline Weight lerp_weight(double weight) { return {static_cast<float>(weight), weight}; }

}  // namespace swa_fast
