// The floating kernels over the grid: every instruction set x pair of storage types x count x
// alignment, between sentinels, against the reference, bit for bit.
#include "check.h"
#include "core/action.h"
#include "guarded.h"
#include "kernel_cases.h"

namespace {

constexpr int64_t kOffsets = 17;
constexpr size_t kPool = 3000;  // random elements, of which each case takes a window

using Difference = int64_t (*)(const void* got, const void* expected, int64_t count);

// One kernel with its data, types left behind: sixteen pairs of them share one loop.
struct Grid {
  const char* isa;
  const char* dst_name;
  const char* src_name;
  swa_fast::cpu::RangeKernel kernel;
  size_t dst_size, src_size;  // bytes of an element
  const uint8_t *dst, *src;   // kPool elements
  std::vector<swa_fast::Weight> weights;
  std::vector<const uint8_t*> expected;  // by weight
  Difference first_difference;
};

void run_grid(const Grid& grid) {
  Guarded dst_memory(1025 * grid.dst_size, kOffsets * grid.dst_size);
  Guarded src_memory(1025 * grid.src_size, kOffsets * grid.src_size);
  size_t run = 0;
  for (const int64_t count : grid_of_counts(80)) {
    for (int64_t dst_offset = 0; dst_offset < kOffsets; ++dst_offset, ++run) {
      const int64_t src_offset = (5 * dst_offset + count) % kOffsets;
      const size_t at = run * 131 % (kPool - static_cast<size_t>(count));
      const size_t dst_bytes = static_cast<size_t>(count) * grid.dst_size;
      const size_t src_bytes = static_cast<size_t>(count) * grid.src_size;
      const uint8_t* const src = grid.src + at * grid.src_size;
      void* const to =
          dst_memory.place(grid.dst + at * grid.dst_size, dst_bytes, dst_offset * grid.dst_size);
      void* const from = src_memory.place(src, src_bytes, src_offset * grid.src_size);
      const size_t weight = run % grid.weights.size();
      grid.kernel(to, from, count, grid.weights[weight]);

      const uint8_t* const expected = grid.expected[weight] + at * grid.dst_size;
      const int64_t wrong = grid.first_difference(to, expected, count);
      const auto context = [&] {
        return describe(grid.isa, grid.dst_name, grid.src_name, count, dst_offset, src_offset);
      };
      CHECK_WITH(wrong < 0, context() + ": element " + std::to_string(wrong));
      CHECK_WITH(dst_memory.sentinels_intact(), context());
      CHECK_WITH(src_memory.sentinels_intact(), context());
      CHECK_WITH(src_bytes == 0 || std::memcmp(from, src, src_bytes) == 0,
                 context() + ": the source changed");
    }
  }
}

template <class T, bool kAnyNan>
int64_t difference(const void* got, const void* expected, int64_t count) {
  return first_difference(got, static_cast<const T*>(expected), count, kAnyNan);
}

template <class T>
const uint8_t* bytes_of(const std::vector<T>& elements) {
  return reinterpret_cast<const uint8_t*>(elements.data());
}

enum class Kind { kLerp, kTfaMean, kCast };

const std::vector<swa_fast::Weight>& weights_of(Kind kind) {
  // Counts, some of which float rounds, or which are as large as count + 1 in it.
  static const std::vector<swa_fast::Weight> counts = {
      swa_fast::tfa_mean_action(1).weight, swa_fast::tfa_mean_action(998).weight,
      swa_fast::tfa_mean_action(1 << 24).weight, swa_fast::tfa_mean_action((1 << 24) + 3).weight,
      swa_fast::tfa_mean_action(swa_fast::kMaxCount).weight};
  return kind == Kind::kTfaMean ? counts : weights();
}

// One operation on one pair of types, on every instruction set.
template <class Dst, class Src>
void run_pair(Storage<Dst> dst, Storage<Src> src, Kind kind, cases::Random& random) {
  const Expectation<Dst, Src> pool(kPool, random);
  std::vector<std::vector<Dst>> means;
  for (const swa_fast::Weight& count : weights_of(Kind::kTfaMean)) {
    if (kind != Kind::kTfaMean) break;
    means.emplace_back();
    for (size_t i = 0; i < kPool; ++i) {
      means.back().push_back(reference::tfa_mean(pool.dst[i], pool.src[i], count));
    }
  }
  const std::vector<swa_fast::Weight>& scalars = weights_of(kind);
  std::vector<const uint8_t*> expected;
  for (size_t i = 0; i < scalars.size(); ++i) {
    expected.push_back(kind == Kind::kLerp      ? bytes_of(pool.lerp[i])
                       : kind == Kind::kTfaMean ? bytes_of(means[i])
                                                : bytes_of(pool.cast));
  }
  for_each_isa([&](const swa_fast::cpu::KernelTable& table) {
    const auto& kernels = kind == Kind::kLerp      ? table.lerp
                          : kind == Kind::kTfaMean ? table.tfa_mean
                                                   : table.cast;
    run_grid({table.isa, dst.name, src.name, kernels[dst.index][src.index], sizeof(Dst),
              sizeof(Src), bytes_of(pool.dst), bytes_of(pool.src), scalars, expected,
              kind == Kind::kCast ? difference<Dst, false> : difference<Dst, true>});
  });
}

// Products of `number` sources, added to sums in double or starting them, on every instruction set.
template <class Src>
void run_sums(Storage<Src> src, size_t number, bool starts, cases::Random& random) {
  constexpr double kWeights[] = {1.0, -0.3, 0.0, 1e300, 5e-324, -0.0, 0.7, 3.0};
  constexpr size_t kFirstWeights = 5;  // a case takes `number` of them from one of the first on
  const std::vector<double> sums = cases::random_values<double>(kPool, random);
  std::vector<std::vector<Src>> values;
  for (size_t k = 0; k < number; ++k) values.push_back(cases::random_values<Src>(kPool, random));
  std::vector<std::vector<double>> expected(kFirstWeights, sums);
  for (size_t first = 0; first < kFirstWeights; ++first) {
    for (size_t i = 0; i < kPool; ++i) {
      for (size_t k = 0; k < number; ++k) {
        const Src value = values[k][i];
        const double wide = reference::is_nan(value) ? std::nan("") : reference::value_of(value);
        volatile double product = wide * kWeights[first + k];
        volatile double sum = expected[first][i] + product;
        expected[first][i] = starts && k == 0 ? product : sum;
      }
    }
  }
  Guarded sums_memory(1025 * sizeof(double), kOffsets * sizeof(double));
  std::vector<Guarded> memory(number, Guarded(1025 * sizeof(Src), kOffsets * sizeof(Src)));
  for_each_isa([&](const swa_fast::cpu::KernelTable& table) {
    const auto kernel = (starts ? table.start_sums : table.add_to_sums)[src.index][number - 1];
    size_t run = 0;
    for (const int64_t count : grid_of_counts(80)) {
      for (int64_t offset = 0; offset < kOffsets; ++offset, ++run) {
        const size_t at = run * 131 % (kPool - static_cast<size_t>(count));
        const size_t src_bytes = static_cast<size_t>(count) * sizeof(Src);
        void* const to =
            sums_memory.place(&sums[at], static_cast<size_t>(count) * 8, offset * sizeof(double));
        std::vector<const char*> from;
        for (size_t k = 0; k < number; ++k) {
          const size_t src_offset = (5 * static_cast<size_t>(offset + count) + 3 * k) % kOffsets;
          from.push_back(static_cast<const char*>(
              memory[k].place(&values[k][at], src_bytes, src_offset * sizeof(Src))));
        }
        const size_t first = run % kFirstWeights;
        kernel(static_cast<double*>(to), from.data(), &kWeights[first], count);
        const int64_t wrong = first_difference(to, &expected[first][at], count, true);
        const std::string context =
            describe(table.isa, "sums", src.name, count, offset, static_cast<int64_t>(number));
        CHECK_WITH(wrong < 0, context + ": element " + std::to_string(wrong));
        CHECK_WITH(sums_memory.sentinels_intact(), context);
        for (size_t k = 0; k < number; ++k) {
          CHECK_WITH(src_bytes == 0 || std::memcmp(from[k], &values[k][at], src_bytes) == 0,
                     context + ": a source changed");
        }
      }
    }
  });
}

// Averages and values in the same memory, of one type or of two types of one size.
template <class Dst, class Src>
void run_in_place(const swa_fast::cpu::KernelTable& table, Storage<Dst> dst, Storage<Src> src,
                  cases::Random& random) {
  const std::vector<Dst> before = cases::random_values<Dst>(1100, random);
  std::vector<Src> seen(before.size());
  std::memcpy(seen.data(), before.data(), before.size() * sizeof(Dst));
  std::vector<Dst> lerped, cast;
  const swa_fast::Weight weight = swa_fast::mean_weight(6);
  for (size_t i = 0; i < before.size(); ++i) {
    lerped.push_back(reference::lerp(before[i], seen[i], weight));
    cast.push_back(reference::convert<Dst>(seen[i]));
  }
  Guarded memory(before.size() * sizeof(Dst), sizeof(Dst));
  for (const int64_t count : {1, 7, 16, 33, 512, 513, 1100}) {
    for (const bool is_lerp : {true, false}) {
      const auto kernel = (is_lerp ? table.lerp : table.cast)[dst.index][src.index];
      void* const data = memory.place(before.data(), count * sizeof(Dst), sizeof(Dst));
      kernel(data, data, count, weight);
      const std::vector<Dst>& expected = is_lerp ? lerped : cast;
      const int64_t wrong = first_difference(data, expected.data(), count, is_lerp);
      CHECK_WITH(wrong < 0, describe(table.isa, dst.name, src.name, count, 1, 1) + ": element " +
                                std::to_string(wrong) + (is_lerp ? " of lerp" : " of cast"));
      CHECK(memory.sentinels_intact());
    }
  }
}

}  // namespace

TEST(lerp_has_the_bits_of_the_contract) {
  cases::Random random(1);
  for_each_pair([&](auto dst, auto src) { run_pair(dst, src, Kind::kLerp, random); });
}

TEST(cast_has_the_bits_of_one_rounding) {
  cases::Random random(2);
  for_each_pair([&](auto dst, auto src) { run_pair(dst, src, Kind::kCast, random); });
}

TEST(tfa_mean_rounds_every_operation) {
  cases::Random random(21);
  for_each_pair([&](auto dst, auto src) { run_pair(dst, src, Kind::kTfaMean, random); });
}

TEST(products_are_summed_in_double) {
  cases::Random random(22);
  for (const bool starts : {true, false}) {
    for (size_t number = 1; number <= swa_fast::cpu::kMostTerms; ++number) {
      for_each_storage([&](auto src) { run_sums(src, number, starts, random); });
    }
  }
}

TEST(dst_may_be_src) {
  cases::Random random(3);
  for_each_pair([&](auto dst, auto src) {
    using Dst = typename decltype(dst)::Type;
    using Src = typename decltype(src)::Type;
    if constexpr (sizeof(Dst) == sizeof(Src)) {
      for_each_isa(
          [&](const swa_fast::cpu::KernelTable& table) { run_in_place(table, dst, src, random); });
    }
  });
}

// The reference itself, on cases worked out by hand: the tests above are worth no more than it is.
TEST(reference_knows_these_answers) {
  using namespace reference;
  CHECK_EQ(nearest(Traits<Float16>::format, 1.0), 0x3c00u);
  CHECK_EQ(nearest(Traits<Float16>::format, -2.0), 0xc000u);
  CHECK_EQ(nearest(Traits<Float16>::format, 1.0 + 0x1p-11), 0x3c00u);  // a tie, to even: down
  CHECK_EQ(nearest(Traits<Float16>::format, 1.0 + 0x3p-11), 0x3c02u);  // a tie, to even: up
  CHECK_EQ(nearest(Traits<Float16>::format, 1.0 + 0x1p-11 + 0x1p-50), 0x3c01u);
  CHECK_EQ(nearest(Traits<Float16>::format, 65519.999), 0x7bffu);
  CHECK_EQ(nearest(Traits<Float16>::format, 65520.0), 0x7c00u);
  CHECK_EQ(nearest(Traits<Float16>::format, HUGE_VAL), 0x7c00u);
  CHECK_EQ(nearest(Traits<Float16>::format, 0x1p-24), 0x0001u);
  CHECK_EQ(nearest(Traits<Float16>::format, 0x1p-25), 0x0000u);
  CHECK_EQ(nearest(Traits<Float16>::format, -0.0), 0x8000u);
  CHECK_EQ(nearest(Traits<BFloat16>::format, 1.0), 0x3f80u);
  CHECK_EQ(nearest(Traits<BFloat16>::format, 0x1p-133), 0x0001u);
  CHECK_EQ(nearest(Traits<float>::format, 0.1), 0x3dcccccdu);
  CHECK_EQ(nearest(Traits<float>::format, 3.4028235677973366e38), 0x7f800000u);
  CHECK_EQ(bits_of(reference::convert<float>(BFloat16{0x7f81})), 0x7f810000u);
  CHECK_EQ(bits_of(reference::convert<Float16>(BFloat16{0xff81})), 0xfe08u);
  CHECK_EQ(bits_of(reference::convert<double>(Float16{0x7c01})), 0x7ff8040000000000u);
  CHECK_EQ(value_of(Float16{0x7bff}), 65504.0);
  CHECK_EQ(reference::lerp(1.0f, 2.0f, swa_fast::Weight{0.25f, 0.25}), 1.25f);
  CHECK_EQ(reference::tfa_mean(1.0f, 4.0f, swa_fast::Weight{2.0f, 2.0}), 2.0f);
  // (0.3f * 2 + 0.7f) / 3 as NumPy's float32 rounds it; in double, rounded once, it is 0x3eddddde.
  CHECK_EQ(bits_of(reference::tfa_mean(0.3f, 0.7f, swa_fast::Weight{2.0f, 2.0})), 0x3eddddddu);
}
