// Counts of averages in device memory, and the flag that leaves a whole snapshot out: what one
// thread does with them. Host code too, so that tests can run a grid on the CPU.
//
// The memory is an array of int64: the flag, not 0 while the snapshot that is being taken holds a
// NaN or an infinity; for each average the snapshots in it; for each the snapshots left out. A
// snapshot is a launch that looks at the values and raises the flag, launches that do nothing where
// it is raised, and one that counts and lowers it.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/finite.h"
#include "cuda/table.h"
#include "cuda/vector.h"

namespace swa_fast::cuda {

// Averages of which one gate can keep count.
inline constexpr int kMostGated = 64;

// Words of the memory.
constexpr int64_t gate_words(int averages) { return 1 + 2 * int64_t{averages}; }

// The memory, and how many averages it is for.
struct Gate {
  int64_t* words;
  int averages;

  int64_t* counts() const { return words + 1; }
};

// Thread `thread` of block `block` of a grid with one block per chunk of a table whose rows have no
// targets: raises the flag if a number is not finite. Several threads may write it: the same.
template <class T, class Table>
SWA_FAST_HOST_DEVICE void run_check_thread(const Table& table, uint32_t block, int thread) {
  constexpr int kWidth = vector_width(sizeof(T), sizeof(T));
  const int row = find_row(table.words, 0, table.header.rows, row_words(0), block);
  const Place place = place_of<kWidth>(RowHead::unpack(table.words[row]), block, thread);
  const auto* const values = reinterpret_cast<const T*>(table.words[row + 1]);
  bool finite = true;
  if (place.whole) {
    Vector<T, kWidth> vector;
    vector.load(values + place.first);
    SWA_FAST_UNROLL
    for (int k = 0; k < kWidth; ++k) finite = finite && is_finite(vector.lane[k]);
  } else {
    SWA_FAST_NO_UNROLL
    for (int lane = 0; lane < kWidth; ++lane) {
      if (!place.holds(lane)) continue;
      Vector<T, 1> one;
      one.load(values + place.at(lane));
      finite = finite && is_finite(one.lane[0]);
    }
  }
  if (!finite) table.header.counter[-1] = 1;
}

// The arguments of the launch that ends a snapshot.
struct Counting {
  int64_t* counts;
  uint64_t due;  // a bit for each average
  int32_t averages;
};

SWA_FAST_HOST_DEVICE void run_counting_thread(const Counting& counting, int thread) {
  if (thread != 0) return;
  const int base = counting.counts[-1] != 0 ? counting.averages : 0;
  for (int average = 0; average < counting.averages; ++average) {
    if ((counting.due >> average & 1) != 0) ++counting.counts[base + average];
  }
  counting.counts[-1] = 0;
}

}  // namespace swa_fast::cuda
