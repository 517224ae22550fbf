// Test data: random values of a storage type with everything in it that rounding can trip over.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include "core/dtype.h"
#include "reference.h"

namespace cases {

using Random = std::mt19937_64;

// A number in double on, or one step of float or of double beside, a halfway point of the format.
inline double near_midpoint(reference::Format format, Random& random) {
  const double midpoint = reference::midpoint_above(format, random() % format.infinity());
  const double sign = (random() & 1) != 0 ? -1.0 : 1.0;
  switch (random() % 6) {
    case 0:
      return sign * std::nextafter(midpoint, HUGE_VAL);
    case 1:
      return sign * std::nextafter(midpoint, 0.0);
    case 2:  // too near for float to tell: rounding to float first would land on the midpoint
      return sign * midpoint * (1 + 0x1p-40);
    case 3:
      return sign * midpoint * (1 - 0x1p-40);
    case 4:
      return sign * midpoint * (1 + 0x1p-22);
    default:
      return sign * midpoint;
  }
}

// Zeros, subnormals, the ends of the normal range, infinities, quiet and signalling NaNs.
template <class T>
T special(Random& random) {
  const reference::Format format = reference::Traits<T>::format;
  const uint64_t infinity = format.infinity();
  const uint64_t quiet = uint64_t{1} << (format.fraction_bits - 1);
  const uint64_t fraction_mask = (uint64_t{1} << format.fraction_bits) - 1;
  const uint64_t patterns[] = {0,
                               1,
                               fraction_mask,
                               fraction_mask + 1,
                               infinity - 1,
                               infinity,
                               infinity | quiet,
                               infinity | quiet | (random() & fraction_mask),
                               infinity | 1,
                               infinity | (quiet >> 1),
                               random() & fraction_mask};
  const uint64_t pattern = patterns[random() % std::size(patterns)];
  return reference::from_bits<T>(pattern | ((random() & 1) != 0 ? format.sign() : 0));
}

template <class T>
T random_value(Random& random) {
  std::uniform_real_distribution<double> around_zero(-1.0, 1.0);
  switch (random() % 8) {
    case 0:
      return special<T>(random);
    case 1:
      return reference::from_bits<T>(random());
    case 2:
      return reference::round_to<T>(
          near_midpoint(reference::Traits<swa_fast::Float16>::format, random));
    case 3:
      return reference::round_to<T>(
          near_midpoint(reference::Traits<swa_fast::BFloat16>::format, random));
    case 4:
      return reference::round_to<T>(near_midpoint(reference::Traits<float>::format, random));
    default:
      return reference::round_to<T>(around_zero(random));
  }
}

template <class T>
std::vector<T> random_values(size_t count, Random& random) {
  std::vector<T> values(count);
  for (T& value : values) value = random_value<T>(random);
  return values;
}

// Every value of the format and every place where rounding to it changes, with what lies just
// beside in float and in double; positive and negative.
inline std::vector<double> rounding_boundaries(reference::Format format) {
  std::vector<double> all;
  for (uint64_t pattern = 0; pattern < format.infinity(); ++pattern) {
    const double value = reference::magnitude_of(format, pattern);
    const double midpoint = reference::midpoint_above(format, pattern);
    const auto in_float = [&](double direction) {
      const float nearest = static_cast<float>(midpoint);
      return static_cast<double>(std::nextafter(nearest, static_cast<float>(direction)));
    };
    for (const double v :
         {value, midpoint, std::nextafter(midpoint, 0.0), std::nextafter(midpoint, HUGE_VAL),
          midpoint * (1 - 0x1p-30), midpoint * (1 + 0x1p-30), in_float(0.0), in_float(HUGE_VAL)}) {
      all.push_back(v);
      all.push_back(-v);
    }
  }
  for (const double v : {HUGE_VAL, 1e300, 0x1p128, 0x1p127, 65536.0, 1e-300, 5e-324, 0x1p-150}) {
    all.push_back(v);
    all.push_back(-v);
  }
  return all;
}

}  // namespace cases
