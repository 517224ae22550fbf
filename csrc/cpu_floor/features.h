// What a build may need of a CPU beyond its architecture's first model, one bit each.
//
// A wheel needs nothing: it is compiled for plain x86-64 or ARMv8-A, and chooses faster kernels at
// run time. A build from source with flags like -march=native does, anywhere in the code.
#pragma once

#include <cstdint>

// X(name, macro, ...): the compiler defines `macro` where it may use the feature.
#if defined(__x86_64__)

// ..., leaf, subleaf, register, bit of CPUID, and the bits that the system must have set in XCR0.
#define SWA_FAST_FOR_EACH_FEATURE(X)                                \
  X("sse3", __SSE3__, 1, 0, kEcx, 0, 0)                             \
  X("pclmul", __PCLMUL__, 1, 0, kEcx, 1, 0)                         \
  X("ssse3", __SSSE3__, 1, 0, kEcx, 9, 0)                           \
  X("fma", __FMA__, 1, 0, kEcx, 12, kYmm)                           \
  X("cx16", __GCC_HAVE_SYNC_COMPARE_AND_SWAP_16, 1, 0, kEcx, 13, 0) \
  X("sse4.1", __SSE4_1__, 1, 0, kEcx, 19, 0)                        \
  X("sse4.2", __SSE4_2__, 1, 0, kEcx, 20, 0)                        \
  X("movbe", __MOVBE__, 1, 0, kEcx, 22, 0)                          \
  X("popcnt", __POPCNT__, 1, 0, kEcx, 23, 0)                        \
  X("aes", __AES__, 1, 0, kEcx, 25, 0)                              \
  X("avx", __AVX__, 1, 0, kEcx, 28, kYmm)                           \
  X("f16c", __F16C__, 1, 0, kEcx, 29, kYmm)                         \
  X("bmi", __BMI__, 7, 0, kEbx, 3, 0)                               \
  X("avx2", __AVX2__, 7, 0, kEbx, 5, kYmm)                          \
  X("bmi2", __BMI2__, 7, 0, kEbx, 8, 0)                             \
  X("avx512f", __AVX512F__, 7, 0, kEbx, 16, kZmm)                   \
  X("avx512dq", __AVX512DQ__, 7, 0, kEbx, 17, kZmm)                 \
  X("adx", __ADX__, 7, 0, kEbx, 19, 0)                              \
  X("avx512ifma", __AVX512IFMA__, 7, 0, kEbx, 21, kZmm)             \
  X("avx512cd", __AVX512CD__, 7, 0, kEbx, 28, kZmm)                 \
  X("avx512bw", __AVX512BW__, 7, 0, kEbx, 30, kZmm)                 \
  X("avx512vl", __AVX512VL__, 7, 0, kEbx, 31, kZmm)                 \
  X("avx512vbmi", __AVX512VBMI__, 7, 0, kEcx, 1, kZmm)              \
  X("avx512vbmi2", __AVX512VBMI2__, 7, 0, kEcx, 6, kZmm)            \
  X("gfni", __GFNI__, 7, 0, kEcx, 8, 0)                             \
  X("vaes", __VAES__, 7, 0, kEcx, 9, kYmm)                          \
  X("avx512vnni", __AVX512VNNI__, 7, 0, kEcx, 11, kZmm)             \
  X("avx512bitalg", __AVX512BITALG__, 7, 0, kEcx, 12, kZmm)         \
  X("avx512vpopcntdq", __AVX512VPOPCNTDQ__, 7, 0, kEcx, 14, kZmm)   \
  X("avx512fp16", __AVX512FP16__, 7, 0, kEdx, 23, kZmm)             \
  X("avxvnni", __AVXVNNI__, 7, 1, kEax, 4, kYmm)                    \
  X("avx512bf16", __AVX512BF16__, 7, 1, kEax, 5, kZmm)              \
  X("lzcnt", __LZCNT__, 0x80000001, 0, kEcx, 5, 0)

#elif defined(__aarch64__) && defined(__linux__)

// ..., the entry of the auxiliary vector, and the bit in it.
#define SWA_FAST_FOR_EACH_FEATURE(X)                            \
  X("aes", __ARM_FEATURE_AES, AT_HWCAP, 3)                      \
  X("sha2", __ARM_FEATURE_SHA2, AT_HWCAP, 6)                    \
  X("crc32", __ARM_FEATURE_CRC32, AT_HWCAP, 7)                  \
  X("atomics", __ARM_FEATURE_ATOMICS, AT_HWCAP, 8)              \
  X("fp16", __ARM_FEATURE_FP16_VECTOR_ARITHMETIC, AT_HWCAP, 10) \
  X("rdm", __ARM_FEATURE_QRDMX, AT_HWCAP, 12)                   \
  X("rcpc", __ARM_FEATURE_RCPC, AT_HWCAP, 15)                   \
  X("dotprod", __ARM_FEATURE_DOTPROD, AT_HWCAP, 20)             \
  X("sve", __ARM_FEATURE_SVE, AT_HWCAP, 22)                     \
  X("sve2", __ARM_FEATURE_SVE2, AT_HWCAP2, 1)                   \
  X("i8mm", __ARM_FEATURE_MATMUL_INT8, AT_HWCAP2, 13)           \
  X("bf16", __ARM_FEATURE_BF16_VECTOR_ARITHMETIC, AT_HWCAP2, 14)

#else  // one model, one set of features: macOS on arm64

#define SWA_FAST_FOR_EACH_FEATURE(X)

#endif

namespace swa_fast::cpu_floor {

// Bit i is the i-th feature of the list above.
using Features = uint64_t;

// What the flags of this build let the compiler use. Data: nothing is run to know it.
extern const Features kRequired;

// What this CPU and its system offer. Runs on any CPU of the architecture.
Features detected();

// "avx2", for bit i; nullptr past the last.
const char* feature_name(int i);

}  // namespace swa_fast::cpu_floor
