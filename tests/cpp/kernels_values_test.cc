// Every value of the 16-bit types, and every place where rounding to them changes, through the
// vector code of every instruction set.
#include "check.h"
#include "kernel_cases.h"

namespace {

template <class T>
std::vector<T> every_pattern() {
  std::vector<T> all;
  for (uint32_t bits = 0; bits < 65536; ++bits) all.push_back(reference::from_bits<T>(bits));
  return all;
}

template <class T>
std::vector<T> boundaries_as() {
  std::vector<T> all;
  using reference::Traits;
  for (const auto format :
       {Traits<swa_fast::Float16>::format, Traits<swa_fast::BFloat16>::format}) {
    for (const double value : cases::rounding_boundaries(format)) {
      all.push_back(reference::round_to<T>(value));
    }
  }
  cases::Random random(5);
  for (int i = 0; i < 5000; ++i) all.push_back(cases::special<T>(random));
  return all;
}

template <class Dst, class Src>
void check_cast(Storage<Dst> dst, Storage<Src> src, std::vector<Src> values) {
  std::vector<Dst> expected;
  for (const Src value : values) expected.push_back(reference::convert<Dst>(value));
  for_each_isa([&](const swa_fast::cpu::KernelTable& table) {
    std::vector<Dst> got(values.size());
    table.cast[dst.index][src.index](got.data(), values.data(), static_cast<int64_t>(values.size()),
                                     weights()[0]);
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK_WITH(reference::bits_of(got[i]) == reference::bits_of(expected[i]),
                 std::string(table.isa) + " " + dst.name + " <- " + src.name + " of bits " +
                     std::to_string(reference::bits_of(values[i])) + ": got " +
                     std::to_string(reference::bits_of(got[i])) + ", expected " +
                     std::to_string(reference::bits_of(expected[i])));
    }
  });
}

}  // namespace

TEST(every_16_bit_value_casts_to_everything) {
  for_each_pair([](auto dst, auto src) {
    using Src = typename decltype(src)::Type;
    if constexpr (sizeof(Src) == 2) check_cast(dst, src, every_pattern<Src>());
  });
}

TEST(every_boundary_of_the_16_bit_types_rounds_once) {
  for_each_pair([](auto dst, auto src) {
    using Dst = typename decltype(dst)::Type;
    using Src = typename decltype(src)::Type;
    if constexpr (sizeof(Dst) == 2 && sizeof(Src) > 2) {
      check_cast(dst, src, boundaries_as<Src>());
    }
  });
}

// A mean of one value and one value more is that value: (v - v) * w is a zero, and the sum is v
// again. Holds for every finite value of every type, whatever the detour through a wider one.
TEST(equal_average_and_value_stay) {
  for_each_storage([](auto storage) {
    using T = typename decltype(storage)::Type;
    if constexpr (sizeof(T) == 2) {
      const std::vector<T> values = every_pattern<T>();
      for_each_isa([&](const swa_fast::cpu::KernelTable& table) {
        std::vector<T> averages = values, source = values;
        table.lerp[storage.index][storage.index](averages.data(), source.data(), 65536,
                                                 weights()[0]);
        const uint64_t infinity = reference::Traits<T>::format.infinity();
        for (size_t i = 0; i < values.size(); ++i) {
          const uint64_t magnitude = i & 0x7fff;
          // inf - inf is NaN, and -0 + 0 is +0.
          const bool as_it_was = reference::bits_of(averages[i]) == i;
          CHECK_WITH(magnitude >= infinity ? reference::is_nan(averages[i])
                     : magnitude == 0      ? reference::bits_of(averages[i]) == 0
                                           : as_it_was,
                     std::string(table.isa) + " " + storage.name + " " + std::to_string(i));
        }
      });
    }
  });
}
