// The arithmetic contract, once more, in another way than csrc/: formats are described by their
// field widths, their values are made with ldexp, and rounding is a search for the nearest value.
// Slow and obvious; what the kernels are compared with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/dtype.h"
#include "core/op.h"

namespace reference {

using swa_fast::BFloat16;
using swa_fast::Float16;

// A binary floating-point format by its field widths.
struct Format {
  int exponent_bits;
  int fraction_bits;

  int width() const { return 1 + exponent_bits + fraction_bits; }
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  uint64_t infinity() const { return ((uint64_t{1} << exponent_bits) - 1) << fraction_bits; }
  uint64_t sign() const { return uint64_t{1} << (width() - 1); }
};

template <class T>
struct Traits;
template <>
struct Traits<double> {
  using Bits = uint64_t;
  static constexpr Format format = {11, 52};
};
template <>
struct Traits<float> {
  using Bits = uint32_t;
  static constexpr Format format = {8, 23};
};
template <>
struct Traits<Float16> {
  using Bits = uint16_t;
  static constexpr Format format = {5, 10};
};
template <>
struct Traits<BFloat16> {
  using Bits = uint16_t;
  static constexpr Format format = {8, 7};
};

template <class T>
uint64_t bits_of(T value) {
  typename Traits<T>::Bits bits;
  static_assert(sizeof(bits) == sizeof(value), "the bits of the whole value");
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

template <class T>
T from_bits(uint64_t all) {
  const auto bits = static_cast<typename Traits<T>::Bits>(all);
  T value;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

template <class T>
bool is_nan(T value) {
  const Format format = Traits<T>::format;
  return (bits_of(value) & ~format.sign()) > format.infinity();
}

// The value of a pattern without sign bit, in a format narrower than double: exact. The pattern of
// infinity gives the value that the next exponent would have: what rounding compares with.
inline double magnitude_of(Format format, uint64_t pattern) {
  const int exponent = static_cast<int>(pattern >> format.fraction_bits);
  const uint64_t fraction = pattern & ((uint64_t{1} << format.fraction_bits) - 1);
  const uint64_t hidden = exponent == 0 ? 0 : uint64_t{1} << format.fraction_bits;
  return std::ldexp(static_cast<double>(hidden | fraction),
                    (exponent == 0 ? 1 : exponent) - format.bias() - format.fraction_bits);
}

// Where rounding turns from `pattern` to `pattern` + 1: exact in double for narrower formats.
inline double midpoint_above(Format format, uint64_t pattern) {
  return (magnitude_of(format, pattern) + magnitude_of(format, pattern + 1)) / 2;
}

// The pattern, sign included, that is nearest to a number; the even one of two equally near.
inline uint64_t nearest(Format format, double value) {
  const double magnitude = std::fabs(value);
  uint64_t low = 0, high = format.infinity();  // low <= magnitude; above high nothing is looked for
  while (high - low > 1) {
    const uint64_t middle = (low + high) / 2;
    (magnitude_of(format, middle) <= magnitude ? low : high) = middle;
  }
  const double midpoint = midpoint_above(format, low);
  const bool up = magnitude > midpoint || (magnitude == midpoint && (low & 1) != 0);
  return (std::signbit(value) ? format.sign() : 0) | (up ? low + 1 : low);
}

// The exact value as a double; not for NaN.
template <class T>
double value_of(T value) {
  if constexpr (std::is_same_v<T, double>) {
    return value;
  } else {
    const Format format = Traits<T>::format;
    const uint64_t pattern = bits_of(value) & ~format.sign();
    const double magnitude =
        pattern == format.infinity() ? HUGE_VAL : magnitude_of(format, pattern);
    return (bits_of(value) & format.sign()) != 0 ? -magnitude : magnitude;
  }
}

// `value`, not NaN, rounded once.
template <class To>
To round_to(double value) {
  if constexpr (std::is_same_v<To, double>) {
    return value;
  } else {
    return from_bits<To>(nearest(Traits<To>::format, value));
  }
}

// A NaN keeps its sign and the upper bits of its payload, and becomes quiet. bfloat16 to float32
// is a plain shift of bits: it stays what it was.
template <class To, class From>
To convert_nan(From value) {
  const Format from = Traits<From>::format, to = Traits<To>::format;
  const uint64_t payload = bits_of(value) & ((uint64_t{1} << from.fraction_bits) - 1);
  uint64_t bits = from.fraction_bits > to.fraction_bits
                      ? payload >> (from.fraction_bits - to.fraction_bits)
                      : payload << (to.fraction_bits - from.fraction_bits);
  constexpr bool shift = std::is_same_v<From, BFloat16> && std::is_same_v<To, float>;
  if (!shift) bits |= uint64_t{1} << (to.fraction_bits - 1);
  bits |= to.infinity();
  if ((bits_of(value) & from.sign()) != 0) bits |= to.sign();
  return from_bits<To>(bits);
}

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else {
    return is_nan(value) ? convert_nan<To>(value) : round_to<To>(value_of(value));
  }
}

// average + (value - average) * weight in the compute type, each operation rounded once.
inline double lerp_rounded(double average, double value, double weight) {
  volatile double difference = value - average;  // volatile: no contraction, no excess precision
  volatile double product = difference * weight;
  volatile double sum = average + product;
  return sum;
}

// The same in float32: the double result of one operation on floats rounds to float as if it had
// been exact (53 >= 2 * 24 + 2; Figueroa 1995, "When is double rounding innocuous?").
inline double lerp_rounded_float(double average, double value, float weight) {
  const auto round = [](double x) { return std::isnan(x) ? x : value_of(round_to<float>(x)); };
  return round(average + round(round(value - average) * static_cast<double>(weight)));
}

// The new average; any NaN stands for every NaN.
template <class Average, class Value>
Average lerp(Average average, Value value, const swa_fast::Weight& weight) {
  if (is_nan(average) || is_nan(value)) return convert<Average>(std::nan(""));
  constexpr bool in_double = std::is_same_v<Average, double> || std::is_same_v<Value, double>;
  const double a = value_of(average), v = value_of(value);
  return convert<Average>(in_double ? lerp_rounded(a, v, weight.f64)
                                    : lerp_rounded_float(a, v, weight.f32));
}

// (average * count + value) / (count + 1) in the compute type, each operation rounded once; of
// floats by the same argument, which holds for a quotient too.
template <class Average, class Value>
Average tfa_mean(Average average, Value value, const swa_fast::Weight& count) {
  if (is_nan(average) || is_nan(value)) return convert<Average>(std::nan(""));
  constexpr bool in_double = std::is_same_v<Average, double> || std::is_same_v<Value, double>;
  const auto round = [](double x) {
    if (in_double || std::isnan(x)) return x;
    return value_of(round_to<float>(x));
  };
  const double n = in_double ? count.f64 : static_cast<double>(count.f32);
  volatile double product = value_of(average) * n;
  volatile double sum = round(product) + value_of(value);
  volatile double total = n + 1;
  volatile double quotient = round(sum) / round(total);
  return convert<Average>(round(quotient));
}

}  // namespace reference
