// Several threads call at once, on tensors of their own: each gets what it would get alone.
#include <atomic>
#include <cstring>
#include <thread>

#include "buffers.h"
#include "check.h"
#include "core/weight.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "plans.h"

using swa_fast::Op;

namespace {

constexpr int kCallers = 4;
constexpr int kRounds = 30;
constexpr size_t kCount = 400000;  // large enough for threads of its own

// Starts all callers at one moment and waits for them.
template <class Body>
void at_once(const Body& body) {
  std::atomic<int> ready{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (++ready; ready < kCallers;) std::this_thread::yield();
      body(caller);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

void call(Op op, std::vector<Tensor>& dst, std::vector<Tensor>& src, swa_fast::Weight weight) {
  const std::vector<swa_fast::Buffer> dst_buffers = buffers_of(dst), src_buffers = buffers_of(src);
  run_call(op, {"averages", "values", dst_buffers, src_buffers}, weight);
}

}  // namespace

// First, while nothing has been called yet: the choices made once in a process race here.
TEST(first_calls_agree_on_the_instruction_set) {
  const swa_fast::cpu::KernelTable* tables[kCallers] = {};
  int threads[kCallers] = {};
  at_once([&](int caller) {
    tables[caller] = &swa_fast::cpu::active_kernels();
    threads[caller] = swa_fast::cpu::get_num_threads();
  });
  for (int caller = 1; caller < kCallers; ++caller) {
    CHECK(tables[caller] == tables[0]);
    CHECK_EQ(threads[caller], threads[0]);
  }
}

TEST(each_caller_gets_its_own_mean) {
  swa_fast::cpu::set_num_threads(2);
  std::vector<float> first(kCallers), last(kCallers);
  at_once([&](int caller) {
    std::vector<Tensor> averages, values;
    for (const size_t size : {size_t{1}, kCount, size_t{777}}) {
      averages.emplace_back(kFloat32, std::vector<float>(size));
      values.emplace_back(kFloat32, std::vector<float>(size));
    }
    for (int round = 0; round < kRounds; ++round) {
      const auto value = static_cast<float>(100 * caller + (round % 2 == 0 ? 1 : 3));
      for (Tensor& tensor : values) {
        for (size_t at = 0; at < tensor.memory.size(); at += sizeof(value)) {
          std::memcpy(&tensor.memory[at], &value, sizeof(value));
        }
      }
      call(Op::kLerp, averages, values, swa_fast::lerp_weight(0.5));
      call(Op::kSwap, averages, values, swa_fast::lerp_weight(1));
      call(Op::kCopy, averages, values, swa_fast::lerp_weight(1));
    }
    first[caller] = averages[0].elements<float>()[0];
    const std::vector<float> elements = averages[1].elements<float>();
    last[caller] = elements == std::vector<float>(kCount, first[caller]) ? elements.back() : -1;
  });
  for (int caller = 0; caller < kCallers; ++caller) {
    float expected = 0;
    for (int round = 0; round < kRounds; ++round) {
      const auto value = static_cast<float>(100 * caller + (round % 2 == 0 ? 1 : 3));
      expected = expected + (value - expected) * 0.5f;
    }
    CHECK_EQ(first[caller], expected);
    CHECK_EQ(last[caller], expected);
  }
  swa_fast::cpu::set_num_threads(0);
}

TEST(the_number_of_threads_may_change_meanwhile) {
  bool in_range[kCallers] = {};
  at_once([&](int caller) {
    in_range[caller] = true;
    for (int round = 0; round < 1000; ++round) {
      swa_fast::cpu::set_num_threads(1 + caller);
      const int count = swa_fast::cpu::get_num_threads();
      in_range[caller] = in_range[caller] && count >= 1 && count <= kCallers;
    }
  });
  for (const bool right : in_range) CHECK(right);
  swa_fast::cpu::set_num_threads(0);
}
