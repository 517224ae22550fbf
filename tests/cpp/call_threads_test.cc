// The threads that a call gets, and that their number never changes a bit of the result.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "check.h"
#include "core/action.h"
#include "cpu/isa.h"
#include "cpu/launch.h"
#include "cpu/threads.h"
#include "subprocess.h"

namespace cpu = swa_fast::cpu;

namespace {

constexpr int64_t kLarge = int64_t{1} << 30;
constexpr size_t kCount = 700'001;  // 5.6 MB of two sides

// Threads that use all CPUs while alive, so that calls have to share them.
class Neighbours {
 public:
  Neighbours() {
    for (unsigned i = 0; i < std::max(std::thread::hardware_concurrency(), 2u); ++i) {
      threads_.emplace_back([this] {
        while (!stop_.load(std::memory_order_relaxed)) {
        }
      });
    }
  }
  ~Neighbours() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  Neighbours(const Neighbours&) = delete;
  Neighbours& operator=(const Neighbours&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

struct Tensors {
  std::vector<float> averages = std::vector<float>(kCount), values = std::vector<float>(kCount);

  Tensors() {
    for (size_t i = 0; i < kCount; ++i) {
      averages[i] = static_cast<float>(i % 1013) * 0.37f;
      values[i] = static_cast<float>(i % 733) * -0.11f;
    }
  }
  // One update on so many threads, or on those that the call chooses. Returns their number.
  int update(int threads) {
    cpu::Launch launch;
    const auto type = static_cast<int>(swa_fast::StorageType::kFloat32);
    launch.add({cpu::active_kernels().lerp[type][type], cpu::active_kernels().cast[type][type],
                reinterpret_cast<char*>(averages.data()), reinterpret_cast<char*>(values.data()),
                static_cast<int64_t>(kCount), 4, 4, 0, 0, 0, false},
               true);
    launch.finish();
    const swa_fast::Action action = swa_fast::snapshot_action({0.3f, 0.3});
    if (threads > 0) {
      launch.run(&action, threads);
      return threads;
    }
    const cpu::CallThreads chosen(launch.bytes(&action));
    launch.run(&action, chosen.count());
    return chosen.count();
  }
};

}  // namespace

TEST(a_number_that_was_set_is_kept_whatever_calls_take) {
  const Neighbours neighbours;
  for (const int threads : {1, 3, 4}) {
    cpu::set_num_threads(threads);
    const int expected = cpu::threads_for(kCount * 8);
    Tensors tensors;
    for (int call = 0; call < 20; ++call) CHECK_EQ(tensors.update(0), expected);
  }
  cpu::set_num_threads(0);
}

TEST(the_default_is_never_exceeded) {
  const Neighbours neighbours;
  Tensors tensors;
  for (int call = 0; call < 50; ++call) {
    const int threads = tensors.update(0);
    CHECK(threads >= 1 && threads <= cpu::threads_for(kCount * 8));
  }
}

TEST(small_calls_get_one_thread) {
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{100'000}}) {
    CHECK_EQ(cpu::CallThreads(bytes).count(), 1);
  }
}

// Calls of the process, quiet and crowded in turns, against the same calls on one thread.
TEST(the_choice_does_not_change_a_bit) {
  Tensors chosen, alone;
  for (int round = 0; round < 4; ++round) {
    {
      const Neighbours neighbours;
      for (int call = 0; call < 15; ++call) chosen.update(0);
    }
    for (int call = 0; call < 15; ++call) chosen.update(0);
    for (int call = 0; call < 30; ++call) alone.update(1);
    CHECK_EQ(std::memcmp(chosen.averages.data(), alone.averages.data(), kCount * 4), 0);
  }
}

TEST(callers_at_once_get_what_they_would_get_alone) {
  Tensors alone;
  for (int call = 0; call < 20; ++call) alone.update(1);
  std::vector<int> equal(4, -1);
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < equal.size(); ++caller) {
    callers.emplace_back([&, caller] {
      Tensors mine;
      for (int call = 0; call < 20; ++call) mine.update(0);
      equal[caller] = std::memcmp(mine.averages.data(), alone.averages.data(), kCount * 4);
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int difference : equal) CHECK_EQ(difference, 0);
}

TEST(a_forked_child_gets_one) {
  Tensors tensors;
  tensors.update(0);
  CHECK_EQ(in_forked_child([] { return cpu::CallThreads(kLarge).count() == 1; }), "ok");
}

#if defined(_OPENMP)
TEST(inside_a_parallel_region_it_is_one) {
  std::atomic<int> most{0};
#pragma omp parallel num_threads(2)
  {
    const int count = omp_in_parallel() ? cpu::CallThreads(kLarge).count() : 1;
    if (count > most) most = count;
  }
  CHECK_EQ(most.load(), 1);
}
#endif
