// weight.h: 1 / (count + 1) is the nearest float and the nearest double, by integer arithmetic.
#include "core/weight.h"

#include <cfenv>
#include <cmath>

#include "cases.h"
#include "check.h"
#include "float_control.h"

using swa_fast::kMaxCount;
using swa_fast::mean_weight;
using swa_fast::Weight;

namespace {

__extension__ using Wide = __int128;

// True if `weight` is the number with `precision` bits that is nearest to 1/n. Written as
// m * 2^-k with m of `precision` bits, it misses by |m * n - 2^k| / (n * 2^k): at most half a step
// of m. A tie is impossible: it would make n divide a power of two, and then m is exact.
bool is_nearest(double weight, int64_t n, int precision) {
  int exponent = 0;
  const double scaled = std::ldexp(std::frexp(weight, &exponent), precision);
  const auto m = static_cast<int64_t>(scaled);
  const int k = precision - exponent;
  if (static_cast<double>(m) != scaled || k < 0 || k > 120) return false;
  const Wide miss = static_cast<Wide>(m) * n - (static_cast<Wide>(1) << k);
  // Below a power of two the steps are half as long.
  const bool short_step = m == int64_t{1} << (precision - 1) && miss > 0;
  return (miss < 0 ? -miss : miss) * (short_step ? 4 : 2) < n;
}

void check_count(int64_t count) {
  const Weight weight = mean_weight(count);
  CHECK_WITH(is_nearest(weight.f32, count + 1, 24), "float of " + std::to_string(count));
  CHECK_WITH(is_nearest(weight.f64, count + 1, 53), "double of " + std::to_string(count));
}

// Counts for which 1/(count + 1) lies as near as it can to halfway between two floats.
int64_t hard_count(cases::Random& random) {
  const uint64_t odd = (random() % (uint64_t{1} << 24) + (uint64_t{1} << 24)) | 1;
  const int shift = 26 + static_cast<int>(random() % 52);
  const Wide n = ((static_cast<Wide>(1) << shift) + odd / 2) / odd;
  return n < 1 || n - 1 > kMaxCount ? 0 : static_cast<int64_t>(n - 1);
}

}  // namespace

TEST(first_million_counts) {
  for (int64_t count = 0; count < 1000000; ++count) check_count(count);
}

TEST(count_zero_weighs_exactly_one) {
  CHECK_EQ(mean_weight(0).f32, 1.0f);
  CHECK_EQ(mean_weight(0).f64, 1.0);
}

TEST(around_every_power_of_two) {
  for (int power = 1; power <= 53; ++power) {
    for (int64_t near = -3; near <= 3; ++near) {
      const int64_t count = (int64_t{1} << power) + near;
      if (count >= 0 && count <= kMaxCount) check_count(count);
    }
  }
  check_count(kMaxCount);
  CHECK_EQ(mean_weight(kMaxCount).f64, 0x1p-53);
  CHECK_EQ(mean_weight(kMaxCount).f32, 0x1p-53f);
}

TEST(random_counts_of_every_size) {
  cases::Random random(8);
  for (int i = 0; i < 1000000; ++i) {
    check_count(static_cast<int64_t>(random() & kMaxCount) >> random() % 53);
  }
}

TEST(counts_where_a_second_rounding_would_show) {
  cases::Random random(9);
  int naive_is_wrong = 0;
  for (int i = 0; i < 1000000; ++i) {
    const int64_t count = hard_count(random);
    check_count(count);
    const auto naive = static_cast<float>(1.0 / static_cast<double>(count + 1));
    naive_is_wrong += naive != mean_weight(count).f32 ? 1 : 0;
  }
  CHECK_WITH(naive_is_wrong > 0, "the cases are not hard enough to tell");
}

TEST(lerp_weight_is_rounded_once_to_float) {
  cases::Random random(10);
  const auto check_weight = [](double value) {
    const Weight weight = swa_fast::lerp_weight(value);
    CHECK(reference::bits_of(weight.f64) == reference::bits_of(value));
    CHECK_WITH(
        reference::bits_of(weight.f32) == reference::bits_of(reference::round_to<float>(value)),
        std::to_string(value));
  };
  for (const double value : {0.0, 1.0, 0.5, 0.1, 1e-40, 5e-324, 0x1p-149, 0x1p-150, 0x1.8p-149,
                             0x1p-126, 0x1.fffffep-127, 0x1.ffffffp-127, 0x1.ffffffffffp-127,
                             std::nextafter(1.0, 0.0), 1 - 0x1p-24, 1 - 0x1p-25}) {
    check_weight(value);
  }
  for (int i = 0; i < 200000; ++i) {
    const double value = std::fabs(cases::random_value<double>(random));
    if (value <= 1.0) check_weight(value);
  }
}

// The contract has one weight per count, whatever the calling thread was set to.
TEST(weights_do_not_depend_on_the_callers_float_environment) {
  cases::Random random(11);
  std::vector<int64_t> counts;
  std::vector<double> fractions = {1e-40, 0.1, 1 - 0x1p-25, 0x1.1p-149, 5e-324};
  for (int i = 0; i < 2000; ++i) {
    counts.push_back(hard_count(random));
    counts.push_back(i);
    fractions.push_back(std::ldexp(static_cast<double>(random()), -64 - i % 100));
  }
  for (const FloatControl control : unusual_float_controls()) {
    for (const int64_t count : counts) {
      volatile int64_t opaque = count;
      const FloatControl before = set_float_control(control);
      const Weight weight = mean_weight(opaque);
      set_float_control(before);
      CHECK_WITH(is_nearest(weight.f32, count + 1, 24) && is_nearest(weight.f64, count + 1, 53),
                 "count " + std::to_string(count));
    }
    for (const double fraction : fractions) {
      volatile double opaque = fraction;
      const FloatControl before = set_float_control(control);
      const Weight weight = swa_fast::lerp_weight(opaque);
      set_float_control(before);
      CHECK_WITH(reference::bits_of(weight.f32) ==
                     reference::bits_of(reference::round_to<float>(fraction)),
                 "weight " + std::to_string(fraction));
    }
  }
}
