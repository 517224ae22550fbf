// Weighted sums of any number of sources: the table that the kernel takes by value, and what one
// thread does. Rows, leads, chunks and places are those of table.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/op.h"
#include "cuda/table.h"
#include "cuda/vector.h"

namespace swa_fast::cuda {

// Elements of a thread: of the widest type two accesses, of the narrowest half of one.
inline constexpr int kSumWidth = 4;

struct SumHeader {
  int32_t rows;
  int32_t terms;
};

// Behind the header stand for each term its coefficient, a double, and its storage type; behind
// those the rows: the head, the address of the output, and those of the sources.
SWA_FAST_HOST_DEVICE constexpr int sum_header_words(int terms) { return 1 + 2 * terms; }
SWA_FAST_HOST_DEVICE constexpr int sum_row_words(int terms) { return 2 + terms; }

// Terms for which arguments of so many bytes hold one row.
constexpr int most_terms(size_t bytes) { return (static_cast<int>(bytes / 8) - 3) / 3; }

template <size_t kBytes>
struct SumTable {
  SumHeader header;
  uint64_t words[kBytes / 8 - 1];
};

static_assert(sizeof(SumHeader) == 8 && sizeof(SumTable<kSmallArguments>) == kSmallArguments &&
                  sizeof(SumTable<kLargeArguments>) <= kLargeArguments,
              "as much as the arguments of a kernel hold");

// Elements `at` to `at` + kWidth of a tensor, in double.
template <int kWidth, class T>
SWA_FAST_HOST_DEVICE void load_as_double(double* numbers, const void* tensor, int at) {
  Vector<T, kWidth> elements;
  elements.load(static_cast<const T*>(tensor) + at);
  SWA_FAST_UNROLL
  for (int k = 0; k < kWidth; ++k) numbers[k] = convert<double>(elements.lane[k]);
}

template <int kWidth>
SWA_FAST_HOST_DEVICE void load_as_double(double* numbers, const void* tensor, StorageType storage,
                                         int at) {
  switch (storage) {
#define SWA_FAST_CASE(enumerator, type, name, code, bits) \
  case StorageType::k##enumerator:                        \
    return load_as_double<kWidth, type>(numbers, tensor, at);
    SWA_FAST_FOR_EACH_STORAGE_TYPE(SWA_FAST_CASE)
#undef SWA_FAST_CASE
  }
}

template <int kWidth, class Dst, class Table>
SWA_FAST_HOST_DEVICE void sum_elements(const Table& table, int row, int at) {
  double sums[kWidth];
  SWA_FAST_UNROLL
  for (int k = 0; k < kWidth; ++k) sums[k] = -0.0;  // the sum of it and x is x, a zero's sign too
  SWA_FAST_NO_UNROLL
  for (int term = 0; term < table.header.terms; ++term) {
    const auto storage = static_cast<StorageType>(table.words[2 * term + 1]);
    const auto* const source = reinterpret_cast<const void*>(table.words[row + 2 + term]);
    double values[kWidth];
    load_as_double<kWidth>(values, source, storage, at);
    const auto weight = bit_cast<double>(table.words[2 * term]);
    SWA_FAST_UNROLL
    for (int k = 0; k < kWidth; ++k) sums[k] = sums[k] + values[k] * weight;
  }
  Vector<Dst, kWidth> output;
  SWA_FAST_UNROLL
  for (int k = 0; k < kWidth; ++k) output.lane[k] = convert<Dst>(sums[k]);
  output.store(reinterpret_cast<Dst*>(table.words[row + 1]) + at);
}

// Thread `thread` of block `block` of a grid with one block per chunk of the table.
template <class Dst, class Table>
SWA_FAST_HOST_DEVICE void run_sum_thread(const Table& table, uint32_t block, int thread) {
  const int terms = table.header.terms;
  const int row = find_row(table.words, sum_header_words(terms) - 1, table.header.rows,
                           sum_row_words(terms), block);
  const Place place = place_of<kSumWidth>(RowHead::unpack(table.words[row]), block, thread);
  if (place.whole) return sum_elements<kSumWidth, Dst>(table, row, place.first);
  SWA_FAST_NO_UNROLL
  for (int lane = 0; lane < kSumWidth; ++lane) {
    if (place.holds(lane)) sum_elements<1, Dst>(table, row, place.at(lane));
  }
}

}  // namespace swa_fast::cuda
