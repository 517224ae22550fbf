// Launch visits every element of every segment exactly once, in even shares, on any number of
// threads. A kernel that only takes notes stands in: no memory is touched, so tensors may be huge.
#include "cpu/launch.h"

#include <algorithm>
#include <mutex>
#include <random>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "check.h"
#include "plans.h"

using swa_fast::Weight;
using swa_fast::cpu::Launch;
using swa_fast::cpu::RangeKernel;

namespace {

struct Call {
  int kernel;
  int thread;
  int threads;
  uint64_t dst;
  uint64_t src;
  int64_t count;
  float weight;
};

std::mutex calls_mutex;
std::vector<Call> calls;

template <int kKernel>
void take_note(void* dst, void* src, int64_t count, const Weight& weight) {
  int thread = 0, threads = 1;
#if defined(_OPENMP)
  thread = omp_get_thread_num();
  threads = omp_get_num_threads();
#endif
  const std::lock_guard<std::mutex> lock(calls_mutex);
  calls.push_back({kKernel, thread, threads, reinterpret_cast<uint64_t>(dst),
                   reinterpret_cast<uint64_t>(src), count, weight.f32});
}

constexpr RangeKernel kNoteTakers[] = {take_note<0>, take_note<1>, take_note<2>};

struct Tensor {
  int kernel;
  int64_t count;
  int64_t dst_step;
  int64_t src_step;
  uint64_t dst = 0;
  uint64_t src = 0;

  int64_t bytes() const { return count * (dst_step + src_step); }
};

// Addresses that no two tensors share.
void give_addresses(std::vector<Tensor>* tensors) {
  uint64_t address = 4096;
  for (Tensor& tensor : *tensors) {
    tensor.dst = address;
    tensor.src = address + static_cast<uint64_t>(tensor.count * tensor.dst_step);
    address = tensor.src + static_cast<uint64_t>(tensor.count * tensor.src_step);
  }
}

// The pieces, in order, continue each other from the first element to the last.
void check_covered(const Tensor& tensor, std::vector<Call> pieces) {
  std::sort(pieces.begin(), pieces.end(),
            [](const Call& a, const Call& b) { return a.dst < b.dst; });
  int64_t done = 0;
  for (const Call& piece : pieces) {
    CHECK(piece.count > 0);
    CHECK_EQ(piece.dst, tensor.dst + static_cast<uint64_t>(done * tensor.dst_step));
    CHECK_EQ(piece.src, tensor.src + static_cast<uint64_t>(done * tensor.src_step));
    CHECK_EQ(piece.kernel, tensor.kernel);
    CHECK_EQ(piece.weight, 0.25f);
    CHECK_EQ(done % 64, 0);  // two threads meet between cache lines
    done += piece.count;
  }
  CHECK_EQ(done, tensor.count);
}

// No thread moves more than its part of all bytes and what the granule of 64 elements adds.
void check_even(const std::vector<Tensor>& tensors, const std::vector<std::vector<Call>>& pieces) {
  int64_t total = 0, widest = 0;
  std::vector<int64_t> moved(64);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t step = tensors[i].dst_step + tensors[i].src_step;
    total += tensors[i].bytes();
    widest = std::max(widest, step);
    for (const Call& piece : pieces[i]) moved[piece.thread] += piece.count * step;
  }
  const int threads = calls.front().threads;
  for (int thread = 0; thread < threads; ++thread) {
    CHECK(moved[thread] <= total / threads + 64 * widest + threads);
  }
}

void check_launch(std::vector<Tensor> tensors, int threads) {
  give_addresses(&tensors);
  Launch launch;
  launch.reserve(tensors.size());
  int64_t total = 0;
  for (const Tensor& tensor : tensors) {
    launch.add(segment_of(kNoteTakers[tensor.kernel], reinterpret_cast<void*>(tensor.dst),
                          reinterpret_cast<void*>(tensor.src), tensor.count, tensor.dst_step,
                          tensor.src_step),
               true);
    total += tensor.bytes();
  }
  launch.finish();
  const swa_fast::Action action = {swa_fast::Action::kBlend, Weight{0.25f, 0.25}};
  CHECK_EQ(launch.bytes(&action), total);
  CHECK(calls.empty());
  launch.run(&action, threads);

  std::vector<std::vector<Call>> pieces(tensors.size());
  for (const Call& call : calls) {
    const auto behind =
        std::upper_bound(tensors.begin(), tensors.end(), call.dst,
                         [](uint64_t dst, const Tensor& tensor) { return dst < tensor.dst; });
    if (CHECK(behind != tensors.begin())) pieces[behind - tensors.begin() - 1].push_back(call);
#if defined(_OPENMP)
    CHECK_EQ(call.threads, threads);
#endif
  }
  for (size_t i = 0; i < tensors.size(); ++i) check_covered(tensors[i], pieces[i]);
  if (!tensors.empty()) check_even(tensors, pieces);
  calls.clear();
}

Tensor random_tensor(std::mt19937_64& random, int64_t max_count) {
  const int64_t steps[] = {1, 2, 4, 8};
  return {static_cast<int>(random() % 3), 1 + static_cast<int64_t>(random() % max_count),
          steps[random() % 4], steps[random() % 4]};
}

}  // namespace

TEST(no_segments_no_calls) {
  for (int threads = 1; threads <= 8; ++threads) check_launch({}, threads);
}

TEST(one_segment_of_every_small_size) {
  for (int threads = 1; threads <= 8; ++threads) {
    for (int64_t count = 1; count <= 300; ++count) check_launch({{0, count, 4, 2}}, threads);
  }
}

TEST(many_segments_of_one_element) {
  for (int threads = 1; threads <= 8; ++threads) {
    for (const size_t number : {2, 3, 7, 8, 9, 100, 3001}) {
      check_launch(std::vector<Tensor>(number, Tensor{1, 1, 8, 8}), threads);
    }
  }
}

TEST(random_segments) {
  std::mt19937_64 random(12);
  for (int round = 0; round < 300; ++round) {
    std::vector<Tensor> tensors;
    const int64_t max_count = int64_t{1} << (random() % 20);
    const size_t number = 1 + random() % (round % 50 == 0 ? 3000 : 40);
    for (size_t i = 0; i < number; ++i) tensors.push_back(random_tensor(random, max_count));
    check_launch(tensors, 1 + round % 8);
  }
}

TEST(a_giant_between_dwarfs) {
  for (int threads = 1; threads <= 8; ++threads) {
    std::vector<Tensor> tensors(1000, Tensor{2, 3, 4, 4});
    tensors[500].count = 10000019;
    check_launch(tensors, threads);
  }
}

TEST(more_elements_than_32_bits_count) {
  for (int threads = 1; threads <= 8; ++threads) {
    check_launch({{0, (int64_t{1} << 31) + 7, 4, 4}}, threads);
    check_launch({{0, (int64_t{1} << 32) + 1, 1, 1}, {1, 5, 2, 8}}, threads);
    check_launch({{0, 3, 8, 8}, {1, (int64_t{1} << 40) + 333, 8, 2}, {2, 1, 1, 1}}, threads);
    check_launch({{0, int64_t{1} << 58, 8, 8}, {1, 1, 1, 1}}, threads);  // 2^62 bytes
  }
}
