// How many threads a call may use, in this process as it was started.
//
// ctest starts it with several values of OMP_NUM_THREADS, which the runtime reads once, and says in
// SWA_FAST_TEST_THREADS what must come out; without that, the default is expected.
#include "cpu/threads.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "check.h"
#include "cpu/cgroup.h"

namespace cpu = swa_fast::cpu;

namespace {

int expected_default() {
#if defined(_OPENMP)
  if (const char* const told = std::getenv("SWA_FAST_TEST_THREADS")) return std::atoi(told);
  const int quota = cpu::cgroup_cpu_limit();
  return quota > 0 ? std::min(quota, omp_get_num_procs()) : omp_get_num_procs();
#else
  return 1;
#endif
}

int with_openmp(int threads) {
#if defined(_OPENMP)
  return std::min(threads, omp_get_thread_limit());
#else
  return std::min(threads, 1);
#endif
}

// The fewest bytes for which `threads` threads are used.
int64_t fewest_bytes(int threads) {
  int64_t low = 0, high = int64_t{1} << 50;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (cpu::threads_for(middle) >= threads ? high : low) = middle;
  }
  return high;
}

}  // namespace

TEST(default_is_what_the_environment_says) {
  CHECK_EQ(cpu::get_num_threads(), expected_default());
  CHECK_EQ(cpu::threads_for(int64_t{1} << 50), expected_default());
}

TEST(set_overrides_and_zero_returns_to_the_default) {
  for (const int threads : {1, 2, 5, 64}) {
    cpu::set_num_threads(threads);
    CHECK_EQ(cpu::get_num_threads(), with_openmp(threads));
  }
  cpu::set_num_threads(0);
  CHECK_EQ(cpu::get_num_threads(), expected_default());
}

TEST(setting_holds_for_every_thread) {
  cpu::set_num_threads(3);
  int seen = 0;
  std::thread([&] { seen = cpu::get_num_threads(); }).join();
  CHECK_EQ(seen, with_openmp(3));
  cpu::set_num_threads(0);
}

TEST(small_calls_stay_on_one_thread) {
  cpu::set_num_threads(4);
  for (const int64_t bytes : {0, 1, 1000, 65536}) CHECK_EQ(cpu::threads_for(bytes), 1);
  cpu::set_num_threads(0);
}

// Every thread has the same least work; more bytes never use fewer threads, and all at the end.
TEST(threads_are_added_one_by_one) {
  cpu::set_num_threads(4);
  const int all = cpu::get_num_threads();
  CHECK_EQ(all, with_openmp(4));
  CHECK_EQ(cpu::threads_for(INT64_MAX), all);
  if (all > 1) {
    const int64_t each = fewest_bytes(2) / 2;
    CHECK(each > 1000);
    for (int threads = 2; threads <= all; ++threads) {
      CHECK_EQ(fewest_bytes(threads), threads * each);
      CHECK_EQ(cpu::threads_for(threads * each), threads);
      CHECK_EQ(cpu::threads_for(threads * each - 1), threads - 1);
    }
  }
  cpu::set_num_threads(1);
  CHECK_EQ(cpu::threads_for(INT64_MAX), 1);
  cpu::set_num_threads(0);
}

#if defined(_OPENMP)
TEST(one_inside_a_parallel_region) {
  cpu::set_num_threads(4);
  int seen[2] = {-1, -1}, worth[2] = {-1, -1}, regions = 1;
#pragma omp parallel num_threads(2)
  {
    const int thread = omp_get_thread_num();
    seen[thread] = cpu::get_num_threads();
    worth[thread] = cpu::threads_for(int64_t{1} << 40);
#pragma omp single
    regions = omp_get_num_threads();
  }
  const int outside = with_openmp(4);
  for (int thread = 0; thread < regions; ++thread) {
    // A region of one thread is no parallel region.
    CHECK_EQ(seen[thread], regions > 1 ? 1 : outside);
    CHECK_EQ(worth[thread], regions > 1 ? 1 : outside);
  }
  CHECK_EQ(cpu::get_num_threads(), outside);
  cpu::set_num_threads(0);
}

// torch.set_num_threads comes in this way where the runtime is shared.
TEST(default_follows_the_runtime) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  CHECK_EQ(cpu::get_num_threads(), 1);
  omp_set_num_threads(before);
  CHECK_EQ(cpu::get_num_threads(), expected_default());
}

TEST(version_is_named) { CHECK_EQ(cpu::openmp_version(), "OpenMP " + std::to_string(_OPENMP)); }
#endif
