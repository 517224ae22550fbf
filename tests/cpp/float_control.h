// The calling thread's floating-point controls: rounding, subnormals, traps; not the status flags.
#pragma once

#include <cfenv>
#include <cstdint>
#include <initializer_list>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

using FloatControl = uint64_t;

inline FloatControl get_float_control() {
#if defined(__x86_64__)
  return _mm_getcsr() & ~0x3fu;
#elif defined(__aarch64__)
  uint64_t control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  return control;
#else
  return static_cast<uint64_t>(std::fegetround());
#endif
}

// Returns what was set before. The memory clobbers keep the compiler from moving loads and stores
// of what is computed across the change.
inline FloatControl set_float_control(FloatControl control) {
  const FloatControl before = get_float_control();
  asm volatile("" ::: "memory");
#if defined(__x86_64__)
  _mm_setcsr(static_cast<unsigned>(control));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(control));
#else
  std::fesetround(static_cast<int>(control));
#endif
  asm volatile("" ::: "memory");
  return before;
}

// Settings that other libraries leave behind: subnormals flushed to zero (and read as zero), the
// three other rounding modes, and exceptions that trap.
inline std::vector<FloatControl> unusual_float_controls() {
#if defined(__x86_64__)
  return {0x1f80 | 0x8000 | 0x0040, 0x1f80 | 0x2000, 0x1f80 | 0x4000, 0x1f80 | 0x6000, 0x0000};
#elif defined(__aarch64__)
  return {uint64_t{1} << 24, uint64_t{1} << 22, uint64_t{2} << 22, uint64_t{3} << 22};
#else
  return {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
#endif
}
