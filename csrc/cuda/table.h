// The table of tensor pairs that a kernel takes by value, and how its work is cut into chunks.
// Host and device share every line: the host counts the chunks, the device finds them again, and
// the tests walk them on the CPU.
//
// A pair is seen as a row of vectors of `width` elements, the first of which begins at an aligned
// address at or before the tensor: `lead` is the number of elements it holds before the tensor.
// Position p of that row is element p - lead; a chunk is a range of positions. So every aligned
// vector lies in one chunk, and only a tensor's first and last vectors can be partial.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/float16.h"

namespace swa_fast::cuda {

inline constexpr int kThreads = 256;     // per block
inline constexpr int kUnroll = 4;        // vectors a thread loads before it uses the first
inline constexpr int kVectorBytes = 16;  // the widest access a thread can make

// Bytes of arguments a kernel may take: 4 KB everywhere; 32,764 from compute capability 7.0 on,
// with a toolkit from 12.1 on and a driver from 530 on (CUDA C++ Programming Guide, "Kernel
// arguments").
inline constexpr size_t kSmallArguments = 4096;
inline constexpr size_t kLargeArguments = 32764;

// What a table holds beside its pairs, and what each pair takes, in bytes.
inline constexpr size_t kTableHeader = 24;
inline constexpr size_t kTableEntry = 28;
inline constexpr int kSmallCapacity = (kSmallArguments - kTableHeader) / kTableEntry;
inline constexpr int kLargeCapacity = (kLargeArguments - kTableHeader) / kTableEntry;

template <int kCapacity>
struct PairTable {
  static constexpr int capacity = kCapacity;

  int32_t pairs;
  int32_t chunk;           // positions per chunk: a multiple of tile_positions() of the kernel
  double weight;           // in the compute type's precision; not used with a counter
  const int64_t* counter;  // device memory with the `count` of a running mean, or nullptr
  void* dst[kCapacity];
  void* src[kCapacity];
  int64_t count[kCapacity];         // elements, > 0
  uint32_t first_chunk[kCapacity];  // chunks of the pairs before this one
};

static_assert(kSmallCapacity == 145 && sizeof(PairTable<kSmallCapacity>) <= kSmallArguments &&
                  kLargeCapacity == 1169 && sizeof(PairTable<kLargeCapacity>) <= kLargeArguments,
              "as many pairs as the arguments of a kernel hold");

// Elements per vector: one access to the wider side takes 16 bytes, and one to the narrower side
// takes as many elements, so that the threads of a warp read solid ranges on both.
SWA_FAST_HOST_DEVICE constexpr int vector_width(int dst_size, int src_size) {
  return kVectorBytes / (dst_size > src_size ? dst_size : src_size);
}

// Positions that a block passes over in one step.
SWA_FAST_HOST_DEVICE constexpr int tile_positions(int dst_size, int src_size) {
  return kThreads * kUnroll * vector_width(dst_size, src_size);
}

struct Walk {
  int width;  // elements per vector: vector_width(), or 1 where the two sides are not aligned alike
  int lead;   // elements of the first vector that lie before the tensor
};

// Both addresses are multiples of their element's size.
SWA_FAST_HOST_DEVICE Walk walk_of(const void* dst, const void* src, int dst_size, int src_size) {
  const int width = vector_width(dst_size, src_size);
  const int dst_lead = static_cast<int>(reinterpret_cast<uintptr_t>(dst) / dst_size % width);
  const int src_lead = static_cast<int>(reinterpret_cast<uintptr_t>(src) / src_size % width);
  return dst_lead == src_lead ? Walk{width, dst_lead} : Walk{1, 0};
}

SWA_FAST_HOST_DEVICE int64_t count_chunks(int64_t count, int lead, int64_t chunk) {
  return (count + lead + chunk - 1) / chunk;
}

// Positions of one chunk, the `index`-th of its pair.
struct ChunkRange {
  int64_t begin;
  int64_t end;
};

SWA_FAST_HOST_DEVICE ChunkRange chunk_range(int64_t count, int lead, int64_t chunk,
                                            uint32_t index) {
  const int64_t begin = int64_t{index} * chunk;
  const int64_t past = begin + chunk;
  return {begin, past < count + lead ? past : count + lead};
}

// The pair that a chunk belongs to: the last whose first chunk is not behind it.
template <class Table>
SWA_FAST_HOST_DEVICE int pair_of_chunk(const Table& table, uint32_t chunk) {
  int low = 0;
  int high = table.pairs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first_chunk[middle] <= chunk) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace swa_fast::cuda
