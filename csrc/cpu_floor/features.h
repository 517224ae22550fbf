// What a build may need of a CPU beyond its architecture's first model.
//
// A wheel needs nothing: it is compiled for plain x86-64 or ARMv8-A, and chooses faster kernels at
// run time. A build from source with flags like -march=native does, anywhere in the code.
#pragma once

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

// X(name, macro, is_offered): the compiler defines `macro` where it may use the feature, and the
// expression tells whether CPU and operating system offer it. What comes only together with another
// feature of the list is left out.
#if defined(__x86_64__)
// Names that GCC 9 and Clang 10 know.
#define SWA_FAST_BUILTIN(X, name, macro) X(name, macro, __builtin_cpu_supports(name) != 0)
#define SWA_FAST_FOR_EACH_FEATURE(X)                    \
  SWA_FAST_BUILTIN(X, "sse3", __SSE3__)                 \
  SWA_FAST_BUILTIN(X, "ssse3", __SSSE3__)               \
  SWA_FAST_BUILTIN(X, "sse4.1", __SSE4_1__)             \
  SWA_FAST_BUILTIN(X, "sse4.2", __SSE4_2__)             \
  SWA_FAST_BUILTIN(X, "sse4a", __SSE4A__)               \
  SWA_FAST_BUILTIN(X, "popcnt", __POPCNT__)             \
  SWA_FAST_BUILTIN(X, "aes", __AES__)                   \
  SWA_FAST_BUILTIN(X, "pclmul", __PCLMUL__)             \
  SWA_FAST_BUILTIN(X, "avx", __AVX__)                   \
  SWA_FAST_BUILTIN(X, "fma4", __FMA4__)                 \
  SWA_FAST_BUILTIN(X, "xop", __XOP__)                   \
  SWA_FAST_BUILTIN(X, "avx2", __AVX2__)                 \
  SWA_FAST_BUILTIN(X, "fma", __FMA__)                   \
  SWA_FAST_BUILTIN(X, "bmi", __BMI__)                   \
  SWA_FAST_BUILTIN(X, "bmi2", __BMI2__)                 \
  SWA_FAST_BUILTIN(X, "gfni", __GFNI__)                 \
  SWA_FAST_BUILTIN(X, "vpclmulqdq", __VPCLMULQDQ__)     \
  SWA_FAST_BUILTIN(X, "avx512f", __AVX512F__)           \
  SWA_FAST_BUILTIN(X, "avx512cd", __AVX512CD__)         \
  SWA_FAST_BUILTIN(X, "avx512bw", __AVX512BW__)         \
  SWA_FAST_BUILTIN(X, "avx512dq", __AVX512DQ__)         \
  SWA_FAST_BUILTIN(X, "avx512vl", __AVX512VL__)         \
  SWA_FAST_BUILTIN(X, "avx512ifma", __AVX512IFMA__)     \
  SWA_FAST_BUILTIN(X, "avx512vbmi", __AVX512VBMI__)     \
  SWA_FAST_BUILTIN(X, "avx512vbmi2", __AVX512VBMI2__)   \
  SWA_FAST_BUILTIN(X, "avx512vnni", __AVX512VNNI__)     \
  SWA_FAST_BUILTIN(X, "avx512bitalg", __AVX512BITALG__) \
  SWA_FAST_BUILTIN(X, "avx512vpopcntdq", __AVX512VPOPCNTDQ__)
#elif defined(__aarch64__) && defined(__linux__)
#define SWA_FAST_FOR_EACH_FEATURE(X)                                                    \
  X("aes", __ARM_FEATURE_AES, (getauxval(AT_HWCAP) >> 3 & 1) != 0)                      \
  X("sha2", __ARM_FEATURE_SHA2, (getauxval(AT_HWCAP) >> 6 & 1) != 0)                    \
  X("crc32", __ARM_FEATURE_CRC32, (getauxval(AT_HWCAP) >> 7 & 1) != 0)                  \
  X("atomics", __ARM_FEATURE_ATOMICS, (getauxval(AT_HWCAP) >> 8 & 1) != 0)              \
  X("fp16", __ARM_FEATURE_FP16_VECTOR_ARITHMETIC, (getauxval(AT_HWCAP) >> 10 & 1) != 0) \
  X("rdm", __ARM_FEATURE_QRDMX, (getauxval(AT_HWCAP) >> 12 & 1) != 0)                   \
  X("rcpc", __ARM_FEATURE_RCPC, (getauxval(AT_HWCAP) >> 15 & 1) != 0)                   \
  X("dotprod", __ARM_FEATURE_DOTPROD, (getauxval(AT_HWCAP) >> 20 & 1) != 0)             \
  X("sve", __ARM_FEATURE_SVE, (getauxval(AT_HWCAP) >> 22 & 1) != 0)                     \
  X("sve2", __ARM_FEATURE_SVE2, (getauxval(AT_HWCAP2) >> 1 & 1) != 0)                   \
  X("i8mm", __ARM_FEATURE_MATMUL_INT8, (getauxval(AT_HWCAP2) >> 13 & 1) != 0)           \
  X("bf16", __ARM_FEATURE_BF16_VECTOR_ARITHMETIC, (getauxval(AT_HWCAP2) >> 14 & 1) != 0)
#else  // one model, one set of features: macOS on arm64
#define SWA_FAST_FOR_EACH_FEATURE(X)
#endif

namespace swa_fast::cpu_floor {

// Whether the flags of this build let the compiler use a feature, in the order of the list, and one
// `false` more. Data: nothing is run to know it.
extern const bool kRequired[];

}  // namespace swa_fast::cpu_floor
