// float16 and bfloat16: storage types and their conversions, for the host and for CUDA devices.
//
// Every conversion to a narrower type rounds once, to nearest, ties to even. NaN stays NaN, made
// quiet, with the upper bits of its payload: what the x86 F16C instructions do, so that scalar and
// vector code agree on every bit. Branch-free where it matters, so that compilers vectorise it.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SWA_FAST_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SWA_FAST_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace swa_fast {

// IEEE 754 binary16: 1 sign, 5 exponent and 10 fraction bits.
struct Float16 {
  uint16_t bits;
};

// The upper half of a binary32: 1 sign, 8 exponent and 7 fraction bits.
struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
SWA_FAST_HOST_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// The number without its sign: one instruction, where `value < 0 ? -value : value` takes three. No
// function of the C library, which could be linked from code for a newer CPU.
SWA_FAST_HOST_DEVICE double magnitude_of(double value) {
#if defined(__CUDACC__)
  return fabs(value);
#else
  return __builtin_fabs(value);
#endif
}

// double to float by rounding to odd: truncate, then set the last bit if anything was lost. A
// second rounding, to any type at least two bits narrower, then gives the correctly rounded result
// of the double (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums").
SWA_FAST_HOST_DEVICE float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  const double back = nearest;
  const double magnitude = magnitude_of(value);
  const double back_magnitude = magnitude_of(back);
  uint32_t bits = bit_cast<uint32_t>(nearest);
  bits -= back_magnitude > magnitude ? 1u : 0u;  // was rounded away from zero: step back
  bits |= back != value ? 1u : 0u;
  return bit_cast<float>(bits);
}

SWA_FAST_HOST_DEVICE float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  // One instruction, exact; only what it makes of a NaN is not said.
  float exact;
  asm("cvt.f32.f16 %0, %1;" : "=f"(exact) : "h"(value.bits));
  const uint32_t payload = value.bits & 0x7fffu;
  const uint32_t quiet = (value.bits & 0x8000u) << 16 | 0x7fc00000u | payload << 13;
  return payload > 0x7c00u ? bit_cast<float>(quiet) : exact;
#else
  const uint32_t half = value.bits;
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t magnitude = (half & 0x7fffu) << 13;  // exponent and fraction in binary32's places
  const uint32_t exponent = magnitude & 0x0f800000u;
  // Normal numbers: move the exponent's bias from 15 to 127.
  const uint32_t normal = magnitude + 0x38000000u;
  // Infinity and NaN: exponent of all ones; a NaN is made quiet.
  const uint32_t special =
      (magnitude + 0x70000000u) | ((magnitude & 0x007fffffu) != 0 ? 0x00400000u : 0u);
  // Zero and subnormals: 2^-14 * (1 + fraction) - 2^-14, exact.
  const uint32_t subnormal =
      bit_cast<uint32_t>(bit_cast<float>(magnitude + 0x38800000u) - bit_cast<float>(0x38800000u));
  const uint32_t finite = exponent == 0 ? subnormal : normal;
  return bit_cast<float>(sign | (exponent == 0x0f800000u ? special : finite));
#endif
}

SWA_FAST_HOST_DEVICE float to_float(BFloat16 value) {
  return bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

SWA_FAST_HOST_DEVICE Float16 to_float16(float value) {
#if defined(__CUDA_ARCH__)
  // One instruction, rounding to nearest even, overflow to infinity, subnormals kept; only what it
  // makes of a NaN is not said.
  uint16_t nearest;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(nearest) : "f"(value));
  const uint32_t pattern = bit_cast<uint32_t>(value);
  const uint32_t quiet = (pattern >> 16 & 0x8000u) | 0x7e00u | (pattern >> 13 & 0x03ffu);
  return {(pattern & 0x7fffffffu) > 0x7f800000u ? static_cast<uint16_t>(quiet) : nearest};
#else
  const uint32_t all = bit_cast<uint32_t>(value);
  const uint32_t sign = (all >> 16) & 0x8000u;
  const uint32_t bits = all & 0x7fffffffu;
  // Normal numbers: add just under half a step (a tie goes up only if the kept part is odd), move
  // the exponent's bias, drop 13 bits. A carry may reach the exponent, which is what rounding
  // means.
  const uint32_t normal = (bits + 0x0fffu + ((bits >> 13) & 1u) - 0x38000000u) >> 13;
  // Below 2^-14: adding 0.5 puts the step of a float16 subnormal, 2^-24, at the last fraction bit,
  // so that the addition itself rounds.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(bits) + 0.5f) - 0x3f000000u;
  const uint32_t nan = 0x7e00u | ((bits >> 13) & 0x03ffu);
  uint32_t half = bits < 0x38800000u ? subnormal : normal;
  half = bits >= 0x47800000u ? 0x7c00u : half;  // 2^16 and above: infinity
  half = bits > 0x7f800000u ? nan : half;
  return {static_cast<uint16_t>(sign | half)};
#endif
}

SWA_FAST_HOST_DEVICE BFloat16 to_bfloat16(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x0040u;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<uint16_t>(is_nan ? nan : rounded)};
}

// convert<To>(from) between any two of double, float, Float16 and BFloat16, rounding once.
template <class To>
struct Convert;

template <>
struct Convert<double> {
  static SWA_FAST_HOST_DEVICE double from(double value) { return value; }
  static SWA_FAST_HOST_DEVICE double from(float value) { return value; }
  static SWA_FAST_HOST_DEVICE double from(Float16 value) { return to_float(value); }
  static SWA_FAST_HOST_DEVICE double from(BFloat16 value) { return to_float(value); }
};

template <>
struct Convert<float> {
  static SWA_FAST_HOST_DEVICE float from(double value) { return static_cast<float>(value); }
  static SWA_FAST_HOST_DEVICE float from(float value) { return value; }
  static SWA_FAST_HOST_DEVICE float from(Float16 value) { return to_float(value); }
  static SWA_FAST_HOST_DEVICE float from(BFloat16 value) { return to_float(value); }
};

template <>
struct Convert<Float16> {
  static SWA_FAST_HOST_DEVICE Float16 from(double v) { return to_float16(round_to_odd(v)); }
  static SWA_FAST_HOST_DEVICE Float16 from(float value) { return to_float16(value); }
  static SWA_FAST_HOST_DEVICE Float16 from(BFloat16 v) { return to_float16(to_float(v)); }
  static SWA_FAST_HOST_DEVICE Float16 from(Float16 value) { return value; }
};

template <>
struct Convert<BFloat16> {
  static SWA_FAST_HOST_DEVICE BFloat16 from(double v) { return to_bfloat16(round_to_odd(v)); }
  static SWA_FAST_HOST_DEVICE BFloat16 from(float value) { return to_bfloat16(value); }
  static SWA_FAST_HOST_DEVICE BFloat16 from(Float16 v) { return to_bfloat16(to_float(v)); }
  static SWA_FAST_HOST_DEVICE BFloat16 from(BFloat16 value) { return value; }
};

template <class To, class From>
SWA_FAST_HOST_DEVICE To convert(From value) {
  return Convert<To>::from(value);
}

}  // namespace swa_fast
