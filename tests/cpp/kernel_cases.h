// What a kernel must make of random data, worked out once by the reference for all instruction
// sets.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "cases.h"
#include "core/weight.h"
#include "cpu/kernel.h"
#include "reference.h"
#include "storage_pairs.h"

// Every count from none to past two vectors of the narrowest type (64 elements in 1024 bits), and
// both sides of the kernels' block of 512 elements.
inline std::vector<int64_t> grid_of_counts(int64_t past_two_vectors) {
  std::vector<int64_t> counts;
  for (int64_t count = 0; count <= past_two_vectors; ++count) counts.push_back(count);
  for (const int64_t count : {511, 512, 513, 1023, 1024, 1025}) counts.push_back(count);
  return counts;
}

inline const std::vector<swa_fast::Weight>& weights() {
  static const std::vector<swa_fast::Weight> all = {
      swa_fast::mean_weight(2), swa_fast::mean_weight(998), swa_fast::lerp_weight(0.5),
      swa_fast::lerp_weight(0.9999999), swa_fast::lerp_weight(1e-300)};
  return all;
}

// Random averages and values with the reference's results.
template <class Dst, class Src>
struct Expectation {
  std::vector<Dst> dst;
  std::vector<Src> src;
  std::vector<std::vector<Dst>> lerp;  // by weight
  std::vector<Dst> cast;

  Expectation(size_t size, cases::Random& random)
      : dst(cases::random_values<Dst>(size, random)), src(cases::random_values<Src>(size, random)) {
    for (size_t i = 0; i + 3 < size; i += 4) {  // values near their average: cancellation
      src[i] = reference::convert<Src>(dst[i]);
    }
    work_out();
  }

  void work_out() {
    for (const swa_fast::Weight& weight : weights()) {
      lerp.emplace_back();
      for (size_t i = 0; i < dst.size(); ++i) {
        lerp.back().push_back(reference::lerp(dst[i], src[i], weight));
      }
    }
    for (const Src& value : src) cast.push_back(reference::convert<Dst>(value));
  }
};

// Bits are equal, or both are NaN: which NaN arithmetic makes is not promised.
template <class T>
bool same_number(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0 || (reference::is_nan(a) && reference::is_nan(b));
}

// Index of the first element that differs from the expected, or -1.
template <class T>
int64_t first_difference(const void* got, const T* expected, int64_t count, bool any_nan) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(T);
  if (bytes == 0 || std::memcmp(got, expected, bytes) == 0) return -1;
  for (int64_t i = 0; i < count; ++i) {
    T element;
    std::memcpy(&element, static_cast<const char*>(got) + i * sizeof(T), sizeof(T));
    const bool same = any_nan ? same_number(element, expected[i])
                              : std::memcmp(&element, &expected[i], sizeof(T)) == 0;
    if (!same) return i;
  }
  return -1;
}

// "avx2 float16 <- float32, 17 elements at 3 and 5"
inline std::string describe(const char* isa, const char* dst, const char* src, int64_t count,
                            int64_t dst_offset, int64_t src_offset) {
  return std::string(isa) + " " + dst + " <- " + src + ", " + std::to_string(count) +
         " elements at offsets " + std::to_string(dst_offset) + " and " +
         std::to_string(src_offset);
}
