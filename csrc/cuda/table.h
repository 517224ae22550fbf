// The table of tensors that a kernel takes by value, and how its work is cut into chunks. The host
// writes it, the device reads it, and the tests do both on the CPU.
//
// A row is one value and its targets, all of one number of elements. It is seen as vectors of
// `width` elements, the first of which begins at an aligned address at or before the tensors:
// `lead` is the number of elements that it holds before them. Position p of a row is element p -
// lead; a chunk is a tile of positions, one vector for each thread of a block. So every aligned
// vector lies in one chunk, and only the first and the last vector of a row can be partial.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/float16.h"

namespace swa_fast::cuda {

inline constexpr int kThreads = 512;     // per block; measured: see docs/cuda.md
inline constexpr int kVectorBytes = 16;  // the widest access a thread can make

// Targets of one value that a launch serves: the value is read once for all of them.
inline constexpr int kMaxTargets = 4;

// Bytes of arguments a kernel may take: 4 KB everywhere; 32,764 from compute capability 7.0 on,
// with a toolkit from 12.1 on and a driver from 530 on (CUDA C++ Programming Guide, "Kernel
// arguments").
inline constexpr size_t kSmallArguments = 4096;
inline constexpr size_t kLargeArguments = 32764;

// Elements of one row; a larger tensor takes several. A multiple of every tile; see RowHead.
inline constexpr int64_t kMaxRow = int64_t{1} << 26;

// Chunks of one launch: the largest grid in x.
inline constexpr int64_t kMaxChunks = (int64_t{1} << 31) - 1;

// What a launch does to one target of each row.
struct Update {
  double scalar;    // the operation's number, in the compute type's precision
  int32_t target;   // which of a row's targets
  int32_t counted;  // n > 0: the number comes from counter n - 1; < 0: while counter -n - 1 is 0,
                    // the target becomes the value
};

struct Header {
  int64_t* counter;  // device memory with the counts of averages, or nullptr
  int32_t rows;
  int32_t targets;  // of each row
  int32_t updates;  // targets that are written
  int32_t gated;    // not 0: nothing is done where the word before the counters is not 0
  Update update[kMaxTargets];
};

// A row in words of 8 bytes: its head, the address of the value, and those of the targets.
SWA_FAST_HOST_DEVICE constexpr int row_words(int targets) { return 2 + targets; }

// The arguments of a kernel that may take `kBytes` of them.
template <size_t kBytes>
struct Table {
  Header header;
  uint64_t words[(kBytes - sizeof(Header)) / 8];
};

// Rows that a table of so many bytes holds.
SWA_FAST_HOST_DEVICE constexpr int table_rows(size_t bytes, int targets) {
  return static_cast<int>((bytes - sizeof(Header)) / 8) / row_words(targets);
}

static_assert(sizeof(Header) == 88 && sizeof(Table<kSmallArguments>) == kSmallArguments &&
                  sizeof(Table<kLargeArguments>) <= kLargeArguments,
              "as many rows as the arguments of a kernel hold");

// Elements per vector: one access to the wider side takes 16 bytes, and one to the narrower side
// takes as many elements, so that the threads of a warp read solid ranges on both.
SWA_FAST_HOST_DEVICE constexpr int vector_width(int dst_size, int src_size) {
  return kVectorBytes / (dst_size > src_size ? dst_size : src_size);
}

// Positions of a chunk.
SWA_FAST_HOST_DEVICE constexpr int tile_positions(int width) { return kThreads * width; }

// The lead of tensors that are not all aligned alike: their elements are taken one by one.
inline constexpr int kApart = 31;

// Elements of the first vector that lie before a tensor, whose address is a multiple of `size`.
inline int lead_of(const void* address, int size, int width) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(address) / static_cast<uintptr_t>(size) %
                          static_cast<uintptr_t>(width));
}

// What the first word of a row says.
struct RowHead {
  int32_t count;         // elements, 1 to kMaxRow
  int32_t lead;          // 0 to 15, or kApart
  uint32_t first_chunk;  // chunks of the rows before this one

  uint64_t pack() const {
    const auto low = static_cast<uint32_t>(count) << 5 | static_cast<uint32_t>(lead);
    return uint64_t{first_chunk} << 32 | low;
  }
  static SWA_FAST_HOST_DEVICE RowHead unpack(uint64_t word) {
    const auto low = static_cast<uint32_t>(word);
    return {static_cast<int32_t>(low >> 5), static_cast<int32_t>(low & 31),
            static_cast<uint32_t>(word >> 32)};
  }
};

inline int64_t count_chunks(int64_t count, int lead, int width) {
  const int64_t tile = tile_positions(width);
  return (count + (lead == kApart ? 0 : lead) + tile - 1) / tile;
}

// The word at which the row of a chunk begins: the last row whose first chunk is not behind it.
// Rows of `stride` words begin at word `begin`.
template <class Words>
SWA_FAST_HOST_DEVICE int find_row(const Words& words, int begin, int rows, int stride,
                                  uint32_t chunk) {
  int low = 0;
  int high = rows;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (static_cast<uint32_t>(words[begin + middle * stride] >> 32) <= chunk) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return begin + low * stride;
}

// The elements of a row that one thread works on: `first`, `first + step`, ...
struct Place {
  int first;
  int step;
  int count;   // elements of the row; what lies outside is not touched
  bool whole;  // all lie in the row, in one aligned vector

  SWA_FAST_HOST_DEVICE int at(int lane) const { return first + lane * step; }
  SWA_FAST_HOST_DEVICE bool holds(int lane) const {
    return static_cast<unsigned>(at(lane)) < static_cast<unsigned>(count);
  }
};

template <int kWidth>
SWA_FAST_HOST_DEVICE Place place_of(const RowHead& head, uint32_t chunk, int thread) {
  const int begin = static_cast<int>(chunk - head.first_chunk) * tile_positions(kWidth);
  if (head.lead == kApart) return {begin + thread, kThreads, head.count, false};
  const int first = begin + thread * kWidth - head.lead;
  return {first, 1, head.count, first >= 0 && first + kWidth <= head.count};
}

}  // namespace swa_fast::cuda
