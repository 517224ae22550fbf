// float16.h: the scalar conversions, exhaustively where there are few values, and at every place
// where rounding changes where there are many.
#include "core/float16.h"

#include <cstdlib>
#include <initializer_list>

#include "cases.h"
#include "check.h"
#include "reference.h"

using swa_fast::BFloat16;
using swa_fast::Float16;

namespace {

template <class T>
void check_every_pattern_widens() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const T value = reference::from_bits<T>(bits);
    const float wide = swa_fast::to_float(value);
    CHECK_WITH(reference::bits_of(wide) == reference::bits_of(reference::convert<float>(value)),
               std::to_string(bits));
    const double wider = swa_fast::convert<double>(value);
    if (reference::is_nan(value)) {
      CHECK_WITH(reference::is_nan(wider), std::to_string(bits));
      continue;
    }
    CHECK_WITH(reference::bits_of(wider) == reference::bits_of(reference::value_of(value)),
               std::to_string(bits));
    CHECK_WITH(reference::bits_of(swa_fast::convert<T>(wide)) == bits, std::to_string(bits));
    CHECK_WITH(reference::bits_of(swa_fast::convert<T>(wider)) == bits, std::to_string(bits));
  }
}

template <class T, class From>
void check_rounds(From value) {
  const T got = swa_fast::convert<T>(value);
  const T expected = reference::convert<T>(value);
  CHECK_WITH(reference::bits_of(got) == reference::bits_of(expected),
             std::to_string(reference::bits_of(value)) + ": got " +
                 std::to_string(reference::bits_of(got)) + ", expected " +
                 std::to_string(reference::bits_of(expected)));
}

template <class T>
void check_boundaries() {
  for (const double value : cases::rounding_boundaries(reference::Traits<T>::format)) {
    check_rounds<T>(value);
    check_rounds<T>(static_cast<float>(value));
  }
}

// Walks all floats upwards beside the patterns of T, which needs no search: the pattern steps when
// the float passes the midpoint above it.
template <class T>
void check_walk(uint32_t stride) {
  const reference::Format format = reference::Traits<T>::format;
  uint64_t pattern = 0;
  double midpoint = reference::midpoint_above(format, 0);
  for (uint64_t bits = 0; bits <= 0x7f800000u; bits += stride) {
    const float value = reference::from_bits<float>(bits);
    while (pattern < format.infinity() &&
           (value > midpoint || (value == midpoint && (pattern & 1) != 0))) {
      midpoint = ++pattern < format.infinity() ? reference::midpoint_above(format, pattern) : 0;
    }
    const uint64_t got = reference::bits_of(swa_fast::convert<T>(value));
    const uint64_t negative = reference::bits_of(swa_fast::convert<T>(-value));
    CHECK_WITH(got == pattern && negative == (pattern | 0x8000u),
               std::to_string(bits) + ": got " + std::to_string(got));
  }
}

// 1 in the environment's SWA_FAST_TEST_STRIDE visits every float (a minute).
uint32_t stride() {
  const char* const chosen = std::getenv("SWA_FAST_TEST_STRIDE");
  return chosen == nullptr ? 101 : static_cast<uint32_t>(std::strtoul(chosen, nullptr, 10));
}

}  // namespace

TEST(every_float16_widens_exactly_and_comes_back) { check_every_pattern_widens<Float16>(); }

TEST(every_bfloat16_widens_exactly_and_comes_back) { check_every_pattern_widens<BFloat16>(); }

TEST(float16_rounds_at_every_boundary) { check_boundaries<Float16>(); }

TEST(bfloat16_rounds_at_every_boundary) { check_boundaries<BFloat16>(); }

TEST(float16_rounds_all_floats) { check_walk<Float16>(stride()); }

TEST(bfloat16_rounds_all_floats) { check_walk<BFloat16>(stride()); }

TEST(random_values_convert_between_all_types) {
  cases::Random random(6);
  for (int i = 0; i < 200000; ++i) {
    const double d = cases::random_value<double>(random);
    const float f = cases::random_value<float>(random);
    check_rounds<Float16>(d);
    check_rounds<BFloat16>(d);
    check_rounds<float>(d);
    check_rounds<Float16>(f);
    check_rounds<BFloat16>(f);
    check_rounds<double>(f);
    check_rounds<Float16>(cases::random_value<BFloat16>(random));
    check_rounds<BFloat16>(cases::random_value<Float16>(random));
  }
}

// Rounding to float on the way gives another answer here: the case that round_to_odd is for.
TEST(double_rounds_once) {
  int twice_differs = 0;
  cases::Random random(7);
  for (int i = 0; i < 100000; ++i) {
    const double value = cases::near_midpoint(reference::Traits<Float16>::format, random);
    check_rounds<Float16>(value);
    const Float16 twice = swa_fast::to_float16(static_cast<float>(value));
    twice_differs += twice.bits != reference::round_to<Float16>(value).bits ? 1 : 0;
  }
  CHECK(twice_differs > 10000);
}

TEST(nan_stays_nan_with_its_upper_payload) {
  CHECK_EQ(swa_fast::to_float16(reference::from_bits<float>(0x7f800001)).bits, 0x7e00);
  CHECK_EQ(swa_fast::to_float16(reference::from_bits<float>(0xffffffff)).bits, 0xffff);
  CHECK_EQ(swa_fast::to_bfloat16(reference::from_bits<float>(0x7f800001)).bits, 0x7fc0);
  CHECK_EQ(swa_fast::to_bfloat16(reference::from_bits<float>(0xffffffff)).bits, 0xffff);
  CHECK_EQ(reference::bits_of(swa_fast::to_float(Float16{0xfc01})), 0xffc02000u);
  for (uint64_t payload = 1; payload < 0x800000; payload += 1021) {
    for (const uint32_t sign : {0u, 0x80000000u}) {
      const float nan = reference::from_bits<float>(sign | 0x7f800000u | payload);
      check_rounds<Float16>(nan);
      check_rounds<BFloat16>(nan);
      const uint64_t wide = uint64_t{sign} << 32 | 0x7ff0000000000000u | payload << 29 | 1;
      check_rounds<Float16>(reference::from_bits<double>(wide));
      check_rounds<BFloat16>(reference::from_bits<double>(wide));
    }
  }
}
