// What one thread of a kernel does. Host code too, so that tests can run a grid on the CPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/op.h"
#include "cuda/counter_weight.h"
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
// the compiler was seen to split one vector store of an unrolled group into four.
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

// kWidth elements in registers.
template <class T, int kWidth>
struct Vector {
  using Packed = Words<static_cast<int>(sizeof(T)) * kWidth>;
#if defined(__CUDA_ARCH__)
  T lane[kWidth];
#else
  T lane[kWidth] = {};  // host compilers do not see that only what was loaded is used
#endif

  SWA_FAST_HOST_DEVICE void load(const T* from) {
#if defined(__CUDA_ARCH__)
    Packed packed;
    packed.load(from);
    memcpy(lane, &packed, sizeof(packed));
#else
    memcpy(lane, from, sizeof(Packed));
#endif
  }
  SWA_FAST_HOST_DEVICE void store(T* to) const {
#if defined(__CUDA_ARCH__)
    Packed packed;
    memcpy(&packed, lane, sizeof(packed));
    packed.store(to);
#else
    memcpy(to, lane, sizeof(Packed));
#endif
  }
};

// The number that an operation is made from: the table's, or that of a count in device memory.
template <class Table>
struct TableScalars {
  const Table& table;

  template <class Compute>
  SWA_FAST_HOST_DEVICE Compute as() const {
    return table.counter == nullptr ? static_cast<Compute>(table.weight)
                                    : counter_weight<Compute>(*table.counter);
  }
};

// An operation on elements in registers as they are stored.
template <class Op>
struct StoredOp {
  using Dst = typename Op::Dst;
  using Src = typename Op::Src;
  using Compute = typename Op::Compute;
  static constexpr bool kReadsDst = Op::kReadsDst;
  static constexpr bool kWritesSrc = Op::kWritesSrc;

  Op op;
  bool first;  // the count in device memory is 0: the average becomes the value, whatever it held

  template <class Table>
  SWA_FAST_HOST_DEVICE explicit StoredOp(const Table& table)
      : op(TableScalars<Table>{table}), first(table.counter != nullptr && *table.counter == 0) {}

  SWA_FAST_HOST_DEVICE void apply(Dst& dst, Src& src) const {
    if constexpr (std::is_same_v<Dst, Compute> && std::is_same_v<Src, Compute>) {
      const Src value = src;
      op.apply(dst, src);
      if constexpr (kReadsDst && !kWritesSrc) dst = first ? value : dst;
    } else {
      Compute d = {};
      if constexpr (kReadsDst) d = convert<Compute>(dst);
      Compute s = convert<Compute>(src);
      op.apply(d, s);
      if constexpr (kReadsDst && std::is_same_v<Dst, Src>) {
        dst = first ? src : convert<Dst>(d);
      } else {
        dst = convert<Dst>(kReadsDst && first ? convert<Compute>(src) : d);
      }
    }
  }
};

// One thread's share of one chunk, positions `begin` to `end`, in vectors of kWidth elements.
template <int kWidth, class Op>
SWA_FAST_HOST_DEVICE void run_chunk(const Op& op, typename Op::Dst* dst, typename Op::Src* src,
                                    int64_t count, int lead, int64_t begin, int64_t end,
                                    int thread) {
  constexpr int64_t kStep = int64_t{kThreads} * kUnroll * kWidth;
  for (int64_t base = begin; base < end; base += kStep) {
    Vector<typename Op::Dst, kWidth> d[kUnroll];
    Vector<typename Op::Src, kWidth> s[kUnroll];
    const int64_t first = base + int64_t{thread} * kWidth - lead;
    // All loads before the first use, and before any store: the two sides may be one tensor.
    SWA_FAST_UNROLL
    for (int j = 0; j < kUnroll; ++j) {
      const int64_t at = first + j * kThreads * kWidth;
      if (at >= 0 && at + kWidth <= count) {
        if constexpr (Op::kReadsDst) d[j].load(dst + at);
        s[j].load(src + at);
      }
    }
    SWA_FAST_UNROLL
    for (int j = 0; j < kUnroll; ++j) {
      const int64_t at = first + j * kThreads * kWidth;
      if (at >= 0 && at + kWidth <= count) {
        SWA_FAST_UNROLL
        for (int k = 0; k < kWidth; ++k) op.apply(d[j].lane[k], s[j].lane[k]);
        d[j].store(dst + at);
        if constexpr (Op::kWritesSrc) s[j].store(src + at);
      }
    }
    // The tensor's first and last vectors, where it does not fill them.
    if constexpr (kWidth > 1) {
      if (base >= lead && base - lead + kStep <= count) continue;
      SWA_FAST_NO_UNROLL
      for (int j = 0; j < kUnroll; ++j) {
        const int64_t at = first + j * kThreads * kWidth;
        if (at >= 0 && at + kWidth <= count) continue;
        const int64_t stop = at + kWidth < count ? at + kWidth : count;
        SWA_FAST_NO_UNROLL
        for (int64_t i = at < 0 ? 0 : at; i < stop; ++i) {
          Vector<typename Op::Dst, 1> average;
          Vector<typename Op::Src, 1> value;
          if constexpr (Op::kReadsDst) average.load(dst + i);
          value.load(src + i);
          op.apply(average.lane[0], value.lane[0]);
          average.store(dst + i);
          if constexpr (Op::kWritesSrc) value.store(src + i);
        }
      }
    }
  }
}

// Thread `thread` of block `block` of a grid with one block per chunk of the table.
template <class Op, class Table>
SWA_FAST_HOST_DEVICE void run_thread(const Table& table, uint32_t block, int thread) {
  using Dst = typename Op::Dst;
  using Src = typename Op::Src;
  constexpr int kWidth = vector_width(sizeof(Dst), sizeof(Src));
  const int pair = pair_of_chunk(table, block);
  auto* const dst = static_cast<Dst*>(table.dst[pair]);
  auto* const src = static_cast<Src*>(table.src[pair]);
  const int64_t count = table.count[pair];
  const Walk walk = walk_of(dst, src, sizeof(Dst), sizeof(Src));
  const ChunkRange range =
      chunk_range(count, walk.lead, table.chunk, block - table.first_chunk[pair]);
  const StoredOp<Op> op(table);
  if (walk.width == kWidth) {
    run_chunk<kWidth>(op, dst, src, count, walk.lead, range.begin, range.end, thread);
  } else {
    run_chunk<1>(op, dst, src, count, walk.lead, range.begin, range.end, thread);
  }
}

}  // namespace swa_fast::cuda
