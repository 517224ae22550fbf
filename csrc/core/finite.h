// Whether numbers are NaN or infinite, told by their bits; for the host and for CUDA devices.
#pragma once

#include <cstdint>

#include "core/float16.h"

namespace swa_fast {

// The exponent of a number that is NaN or infinite: all of these bits are set.
template <class T>
struct Exponent;
template <>
struct Exponent<double> {
  using Bits = uint64_t;
  static constexpr Bits kAll = 0x7ff0000000000000u;
};
template <>
struct Exponent<float> {
  using Bits = uint32_t;
  static constexpr Bits kAll = 0x7f800000u;
};
template <>
struct Exponent<Float16> {
  using Bits = uint16_t;
  static constexpr Bits kAll = 0x7c00u;
};
template <>
struct Exponent<BFloat16> {
  using Bits = uint16_t;
  static constexpr Bits kAll = 0x7f80u;
};

template <class T>
SWA_FAST_HOST_DEVICE bool is_finite(T number) {
  using Bits = typename Exponent<T>::Bits;
  constexpr Bits kAll = Exponent<T>::kAll;
  return (bit_cast<Bits>(number) & kAll) != kAll;
}

}  // namespace swa_fast
