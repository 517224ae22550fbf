// No kernel touches memory outside its range, not even to read: the neighbouring pages fault.
#include "check.h"
#include "guarded.h"
#include "kernel_cases.h"

namespace {

// Runs the kernel with both buffers against the fence on either side. An access beyond ends the
// process with SIGSEGV, which ctest reports.
void run_at_fences(swa_fast::cpu::RangeKernel kernel, size_t dst_step, size_t src_step, Fenced* dst,
                   Fenced* src) {
  static const std::vector<uint8_t> zeros(2048 * sizeof(double));
  for (const int64_t count : grid_of_counts(80)) {
    const size_t dst_bytes = static_cast<size_t>(count) * dst_step;
    const size_t src_bytes = static_cast<size_t>(count) * src_step;
    for (const int ends : {0, 1, 2, 3}) {
      void* const to = (ends & 1) != 0 ? dst->at_end(zeros.data(), dst_bytes)
                                       : dst->at_begin(zeros.data(), dst_bytes);
      void* const from = (ends & 2) != 0 ? src->at_end(zeros.data(), src_bytes)
                                         : src->at_begin(zeros.data(), src_bytes);
      kernel(to, from, count, weights()[0]);
      CHECK(dst_bytes == 0 || std::memcmp(to, zeros.data(), dst_bytes) == 0);
    }
  }
}

}  // namespace

TEST(floating_kernels_stay_inside) {
  Fenced dst(2048 * sizeof(double)), src(2048 * sizeof(double));
  for_each_isa([&](const swa_fast::cpu::KernelTable& table) {
    for_each_pair([&](auto to, auto from) {
      using Dst = typename decltype(to)::Type;
      using Src = typename decltype(from)::Type;
      for (const auto kernel :
           {table.lerp[to.index][from.index], table.tfa_mean[to.index][from.index],
            table.cast[to.index][from.index]}) {
        run_at_fences(kernel, sizeof(Dst), sizeof(Src), &dst, &src);
      }
    });
  });
}

TEST(sums_stay_inside) {
  constexpr size_t kMost = swa_fast::cpu::kMostTerms;
  constexpr size_t kBytes = 2048 * sizeof(double);
  static const std::vector<uint8_t> zeros(kBytes);
  const std::vector<double> weights(kMost, 0.5);
  Fenced sums(kBytes), first(kBytes), second(kBytes), third(kBytes), fourth(kBytes);
  Fenced* const fenced[kMost] = {&first, &second, &third, &fourth};
  for_each_isa([&](const swa_fast::cpu::KernelTable& table) {
    for_each_storage([&](auto from) {
      constexpr size_t kStep = sizeof(typename decltype(from)::Type);
      for (const int64_t count : grid_of_counts(80)) {
        const auto number = static_cast<size_t>(count);
        for (const bool at_end : {false, true}) {
          const auto put = [&](Fenced* buffer, size_t bytes) {
            return at_end ? buffer->at_end(zeros.data(), bytes)
                          : buffer->at_begin(zeros.data(), bytes);
          };
          auto* const to = static_cast<double*>(put(&sums, number * sizeof(double)));
          const char* sources[kMost];
          for (size_t k = 0; k < kMost; ++k) {
            sources[k] = static_cast<const char*>(put(fenced[k], number * kStep));
          }
          for (size_t k = 0; k < kMost; ++k) {
            table.start_sums[from.index][k](to, sources, weights.data(), count);
            table.add_to_sums[from.index][k](to, sources, weights.data(), count);
          }
          for (int64_t i = 0; i < count; ++i) CHECK_EQ(to[i], 0.0);
        }
      }
    });
  });
}

TEST(byte_kernels_stay_inside) {
  Fenced dst(2048), src(2048);
  for_each_isa([&](const swa_fast::cpu::KernelTable& table) {
    for (const auto kernel : {table.copy_bytes, table.swap_bytes}) {
      run_at_fences(kernel, 1, 1, &dst, &src);
    }
  });
}
