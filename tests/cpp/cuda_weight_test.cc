// The weight that a kernel makes of a count in device memory: the host's bits.
#include <random>

#include "check.h"
#include "core/weight.h"
#include "cuda/counter_weight.h"
#include "reference.h"

using swa_fast::bit_cast;
using swa_fast::cuda::counter_weight;

namespace {

void check_count(int64_t count) {
  const swa_fast::Weight weight = swa_fast::mean_weight(count);
  const auto f32 = counter_weight<float>(count);
  const auto f64 = counter_weight<double>(count);
  CHECK_WITH(bit_cast<uint32_t>(f32) == bit_cast<uint32_t>(weight.f32), std::to_string(count));
  CHECK_WITH(bit_cast<uint64_t>(f64) == bit_cast<uint64_t>(weight.f64), std::to_string(count));
}

}  // namespace

TEST(small_counts) {
  for (int64_t count = 0; count < 3'000'000; ++count) check_count(count);
}

TEST(large_counts) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 2'000'000; ++i) {
    check_count(static_cast<int64_t>(random() >> 11 >> (random() % 52)) & swa_fast::kMaxCount);
  }
  for (int power = 1; power < 53; ++power) {
    for (int64_t near = -3; near <= 3; ++near) {
      const int64_t count = (int64_t{1} << power) + near;
      if (count >= 0 && count <= swa_fast::kMaxCount) check_count(count);
    }
  }
}

// 1 / n within half a step of double from a number halfway between two floats: rounding to double
// first loses on which side it lies.
TEST(counts_next_to_halfway_points) {
  __extension__ using Wide = unsigned __int128;
  std::mt19937_64 random(8);
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t halfway = (uint64_t{1} << 24) + random() % (uint64_t{1} << 24) / 2 * 2 + 1;
    for (int power = 60; power <= 77; ++power) {
      const auto n = static_cast<int64_t>(((Wide{1} << power) + halfway / 2) / halfway);
      check_count(n - 1);
    }
  }
}

TEST(counts_that_the_host_would_refuse_give_nan) {
  for (const int64_t count : {int64_t{-1}, INT64_MIN, swa_fast::kMaxCount + 1, INT64_MAX}) {
    CHECK(reference::is_nan(counter_weight<float>(count)));
    CHECK(reference::is_nan(counter_weight<double>(count)));
  }
  check_count(swa_fast::kMaxCount);
}
