// Launch computes with IEEE defaults whatever its threads were set to, and leaves them as they
// were: flushing of subnormals, rounding modes, trapping exceptions.
#include "check.h"
#include "float_control.h"
#include "kernel_cases.h"
#include "plans.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

using swa_fast::cpu::KernelTable;

#if defined(_OPENMP)
constexpr int kThreads = 3;
#else
constexpr int kThreads = 1;
#endif

// Runs `body` on every thread of the pool that Launch uses.
template <class Body>
void on_every_thread(const Body& body) {
#if defined(_OPENMP)
#pragma omp parallel num_threads(kThreads)
  body(omp_get_thread_num());
#else
  body(0);
#endif
}

// The results of all pairs for the same random data, one after another.
std::vector<uint8_t> results(const KernelTable& table, int threads, FloatControl control) {
  std::vector<uint8_t> all;
  cases::Random random(14);
  for_each_pair([&](auto dst, auto src) {
    using Dst = typename decltype(dst)::Type;
    using Src = typename decltype(src)::Type;
    for (const bool is_lerp : {true, false}) {
      std::vector<Dst> averages = cases::random_values<Dst>(1500, random);
      std::vector<Src> values = cases::random_values<Src>(1500, random);
      for (size_t i = 0; i < values.size(); i += 2) {  // subnormals meet subnormals
        averages[i] = reference::from_bits<Dst>(random() & 0x7f);
        values[i] = reference::from_bits<Src>(random() & 0x7f);
      }
      const auto kernel = (is_lerp ? table.lerp : table.cast)[dst.index][src.index];
      const auto segment =
          segment_of(kernel, averages.data(), values.data(), 1500, sizeof(Dst), sizeof(Src));

      std::vector<FloatControl> before(kThreads), seen(kThreads);
      on_every_thread([&](int thread) { before[thread] = set_float_control(control); });
      run_segment(segment, swa_fast::mean_weight(2), threads);
      on_every_thread([&](int thread) { seen[thread] = set_float_control(before[thread]); });
      for (const FloatControl after : seen) CHECK_EQ(after, control);

      for (Dst& average : averages) {  // which NaN arithmetic makes is not promised
        if (is_lerp && reference::is_nan(average)) average = Dst{};
      }
      const auto* bytes = reinterpret_cast<const uint8_t*>(averages.data());
      all.insert(all.end(), bytes, bytes + averages.size() * sizeof(Dst));
    }
  });
  return all;
}

}  // namespace

TEST(results_do_not_depend_on_the_float_environment) {
  const FloatControl defaults = get_float_control();
  for_each_isa([&](const KernelTable& table) {
    const std::vector<uint8_t> expected = results(table, 1, defaults);
    for (const FloatControl control : unusual_float_controls()) {
      for (const int threads : {1, kThreads}) {
        CHECK_WITH(results(table, threads, control) == expected,
                   std::string(table.isa) + " on " + std::to_string(threads) +
                       " threads with control " + std::to_string(control));
      }
    }
  });
  CHECK_EQ(get_float_control(), defaults);
}

// The settings above do change what plain arithmetic gives, so the test above can fail.
TEST(the_unusual_environments_are_unusual) {
  const auto arithmetic = [](FloatControl control) {
    volatile double tiny = 0x1p-1060, one = 1.0, three = 3.0, ten = 10.0;
    const FloatControl before = set_float_control(control);
    volatile double halved = tiny * 0.5, third = one / three, negative_third = -one / three;
    volatile double tenth = one / ten;
    set_float_control(before);
    return std::vector<double>{halved, third, negative_third, tenth};
  };
  const std::vector<double> expected = arithmetic(get_float_control());
  for (const FloatControl control : unusual_float_controls()) {
    if (control == 0) continue;  // traps: the arithmetic would end the process
    CHECK_WITH(arithmetic(control) != expected, std::to_string(control));
  }
}

// Nor does a call leave flags behind, for a caller who looks whether its own arithmetic overflowed.
#if defined(__x86_64__)
TEST(status_flags_of_the_caller_stay) {
  std::feclearexcept(FE_ALL_EXCEPT);
  const auto& table = swa_fast::cpu::active_kernels();
  std::vector<float> averages(100, 1.0f), values(100, 1e-30f);
  run_segment(segment_of(table.lerp[1][1], averages.data(), values.data(), 100, 4, 4),
              swa_fast::mean_weight(2), 1);
  CHECK(averages[0] < 1.0f);
  CHECK_EQ(std::fetestexcept(FE_ALL_EXCEPT), 0);
}
#endif
