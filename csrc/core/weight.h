// The weight of a new value: 1 / (count + 1) in a mean, or a number given; rounded once to each
// compute type.
//
// In integer arithmetic, so that the weight is the same whatever the calling thread's rounding mode
// and treatment of subnormals: the kernels set theirs, but the weight is made before they run.
#pragma once

#include <cstdint>

#include "core/op.h"

namespace swa_fast {

// Largest `count` for which count + 1 is exact in double: 2^53 - 1.
inline constexpr int64_t kMaxCount = (int64_t{1} << 53) - 1;

// The number of `precision` bits that is nearest to 1 / n, for 1 <= n <= 2^53.
inline double nearest_reciprocal(int64_t n, int precision) {
  __extension__ using Wide = unsigned __int128;
  // 2^(length - 1) <= n < 2^length, so that 2^shift / n has `precision` bits before the point (one
  // more, and no others, if n is a power of two). No quotient lies halfway between two integers.
  const int length = 64 - __builtin_clzll(static_cast<uint64_t>(n));
  const int shift = length + precision - 1;
  const Wide divisor = static_cast<Wide>(n);
  const auto nearest = static_cast<int64_t>(((Wide{1} << shift) + divisor / 2) / divisor);
  const auto scale = bit_cast<double>(static_cast<uint64_t>(1023 - shift) << 52);  // 2^-shift
  return static_cast<double>(nearest) * scale;  // both factors and the product are exact
}

// `value`, from 0 to 2^53, rounded to nearest, ties to even. Its sign is dropped: -0 becomes 0.
inline float nearest_float(double value) {
  constexpr int kSmallestNormal = 1023 - 126;  // biased exponent of 2^-126, as a double
  const uint64_t bits = bit_cast<uint64_t>(value) & ~(uint64_t{1} << 63);
  const int exponent = static_cast<int>(bits >> 52);
  // 29 fraction bits go, and one more for each power of two below float's normal range.
  const int below = exponent < kSmallestNormal ? kSmallestNormal - exponent : 0;
  if (below > 24) return 0.0f;  // less than half of 2^-149
  const int dropped = 29 + below;
  const uint64_t significand = (bits & ((uint64_t{1} << 52) - 1)) | uint64_t{1} << 52;
  const uint64_t just_under_half = (uint64_t{1} << (dropped - 1)) - 1;
  const uint64_t odd = (significand >> dropped) & 1;
  const uint64_t rounded = (significand + just_under_half + odd) >> dropped;
  // A normal significand's leading bit lands in the exponent field and counts there as one.
  const int field = below > 0 ? 0 : exponent - kSmallestNormal;
  return bit_cast<float>((static_cast<uint32_t>(field) << 23) + static_cast<uint32_t>(rounded));
}

inline Weight mean_weight(int64_t count) {
  return {static_cast<float>(nearest_reciprocal(count + 1, 24)), nearest_reciprocal(count + 1, 53)};
}

inline Weight lerp_weight(double weight) { return {nearest_float(weight), weight}; }

}  // namespace swa_fast
