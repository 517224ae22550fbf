// A forked child computes on one thread and does not wait for the parent's, which it does not have.
#include <cstring>
#include <vector>

#include "check.h"
#include "core/weight.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "plans.h"
#include "subprocess.h"

namespace cpu = swa_fast::cpu;

namespace {

constexpr size_t kCount = 2 * 1024 * 1024;

// A call that is large enough for several threads; the result is 1.5 everywhere.
bool large_call_is_right(int threads) {
  std::vector<float> averages(kCount, 1.0f), values(kCount, 2.0f);
  run_segment(segment_of(cpu::active_kernels().lerp[1][1], averages.data(), values.data(),
                         static_cast<int64_t>(kCount), 4, 4),
              swa_fast::mean_weight(1), threads);
  return averages == std::vector<float>(kCount, 1.5f);
}

bool large_call_is_right() { return large_call_is_right(cpu::threads_for(kCount * 8)); }

}  // namespace

TEST(child_of_a_parent_that_used_its_threads) {
  cpu::set_num_threads(4);
  CHECK(large_call_is_right(4));  // the parent's pool exists now
  CHECK_EQ(in_forked_child([] {
             return cpu::get_num_threads() == 1 && cpu::threads_for(int64_t{1} << 40) == 1 &&
                    large_call_is_right();
           }),
           "ok");
  // The parent is as before.
#if defined(_OPENMP)
  CHECK_EQ(cpu::get_num_threads(), 4);
#endif
  CHECK(large_call_is_right(4));
  cpu::set_num_threads(0);
}

TEST(asking_for_threads_in_the_child_gives_one) {
  CHECK(large_call_is_right(4));
  CHECK_EQ(in_forked_child([] {
             cpu::set_num_threads(4);
             return cpu::get_num_threads() == 1 && large_call_is_right();
           }),
           "ok");
}

TEST(grandchild) {
  CHECK(large_call_is_right(4));
  CHECK_EQ(in_forked_child([] {
             return large_call_is_right() &&
                    in_forked_child([] { return large_call_is_right(); }, 30) == "ok";
           }),
           "ok");
}

// What the rule protects from, so that its test is known to be able to fail. A runtime that
// survives a fork (LLVM's) makes this case moot, not wrong.
TEST(the_harness_sees_a_hang) {
  CHECK_EQ(in_forked_child(
               [] {
                 for (;;) pause();
                 return true;
               },
               1),
           "hung");
  CHECK_EQ(in_forked_child([] { return false; }), "failed");
}
