// Elements in a thread's registers, and how they come there.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/table.h"

#if defined(__CUDA_ARCH__)
#define SWA_FAST_UNROLL _Pragma("unroll")
#define SWA_FAST_NO_UNROLL _Pragma("unroll 1")
#else
#define SWA_FAST_UNROLL
#define SWA_FAST_NO_UNROLL
#endif

namespace swa_fast::cuda {

// The registers of one access of 1, 2, 4, 8 or 16 bytes. The device's accesses are written in PTX:
// the compiler was seen to split a vector store into four.
template <int kBytes>
struct Words;

template <>
struct Words<16> {
  uint32_t word[4];
#if defined(__CUDA_ARCH__)
  __device__ __forceinline__ void load(const void* from) {
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "l"(from));
  }
  __device__ __forceinline__ void store(void* to) const {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(to), "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3])
                 : "memory");
  }
#endif
};

template <>
struct Words<8> {
  uint32_t word[2];
#if defined(__CUDA_ARCH__)
  __device__ __forceinline__ void load(const void* from) {
    asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(word[0]), "=r"(word[1]) : "l"(from));
  }
  __device__ __forceinline__ void store(void* to) const {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};"
                 :
                 : "l"(to), "r"(word[0]), "r"(word[1])
                 : "memory");
  }
#endif
};

template <>
struct Words<4> {
  uint32_t word;
#if defined(__CUDA_ARCH__)
  __device__ __forceinline__ void load(const void* from) {
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(word) : "l"(from));
  }
  __device__ __forceinline__ void store(void* to) const {
    asm volatile("st.global.b32 [%0], %1;" : : "l"(to), "r"(word) : "memory");
  }
#endif
};

template <>
struct Words<2> {
  uint16_t word;
#if defined(__CUDA_ARCH__)
  __device__ __forceinline__ void load(const void* from) {
    asm volatile("ld.global.b16 %0, [%1];" : "=h"(word) : "l"(from));
  }
  __device__ __forceinline__ void store(void* to) const {
    asm volatile("st.global.b16 [%0], %1;" : : "l"(to), "h"(word) : "memory");
  }
#endif
};

template <>
struct Words<1> {
  uint8_t word;
#if defined(__CUDA_ARCH__)
  __device__ __forceinline__ void load(const void* from) {  // no register is as narrow as a byte
    uint32_t wide;
    asm volatile("ld.global.u8 %0, [%1];" : "=r"(wide) : "l"(from));
    word = static_cast<uint8_t>(wide);
  }
  __device__ __forceinline__ void store(void* to) const {
    asm volatile("st.global.u8 [%0], %1;" : : "l"(to), "r"(uint32_t{word}) : "memory");
  }
#endif
};

// kWidth elements in registers, in as few accesses as can be.
template <class T, int kWidth>
struct Vector {
  static constexpr int kBytes = static_cast<int>(sizeof(T)) * kWidth;
  static constexpr int kPieceBytes = kBytes < kVectorBytes ? kBytes : kVectorBytes;
  static constexpr int kPieces = kBytes / kPieceBytes;

#if defined(__CUDA_ARCH__)
  T lane[kWidth];

  __device__ __forceinline__ void load(const T* from) {
    Words<kPieceBytes> pieces[kPieces];
    SWA_FAST_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      pieces[i].load(reinterpret_cast<const char*>(from) + i * kPieceBytes);
    }
    memcpy(lane, pieces, kBytes);
  }
  __device__ __forceinline__ void store(T* to) const {
    Words<kPieceBytes> pieces[kPieces];
    memcpy(pieces, lane, kBytes);
    SWA_FAST_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      pieces[i].store(reinterpret_cast<char*>(to) + i * kPieceBytes);
    }
  }
#else
  T lane[kWidth] = {};  // host compilers do not see that only what was loaded is used

  void load(const T* from) { memcpy(lane, from, kBytes); }
  void store(T* to) const { memcpy(to, lane, kBytes); }
#endif
};

}  // namespace swa_fast::cuda
