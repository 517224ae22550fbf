// The same bits from any number of threads, with the real kernels on real memory.
#include <cstring>
#include <random>

#include "check.h"
#include "kernel_cases.h"
#include "plans.h"

namespace {

// Lists of tensors of all kinds, laid out one after another.
struct Lists {
  struct Tensor {
    int dst_type, src_type;  // storage types; lerp if they are floating, bytes if negative
    int64_t count, dst_step, src_step;
    size_t dst_at, src_at;
  };
  std::vector<Tensor> tensors;
  std::vector<uint8_t> dst, src;
};

template <class T>
void append_random(std::vector<uint8_t>* bytes, int64_t count, cases::Random& random) {
  bytes->resize((bytes->size() + 63) / 64 * 64);
  const std::vector<T> values = cases::random_values<T>(static_cast<size_t>(count), random);
  const auto* data = reinterpret_cast<const uint8_t*>(values.data());
  bytes->insert(bytes->end(), data, data + values.size() * sizeof(T));
}

Lists random_lists() {
  cases::Random random(13);
  Lists lists;
  for (const int64_t count : {1, 3, 64, 65, 777, 1000, 4097, 9000}) {
    for_each_pair([&](auto dst, auto src) {
      using Dst = typename decltype(dst)::Type;
      using Src = typename decltype(src)::Type;
      append_random<Dst>(&lists.dst, count, random);
      append_random<Src>(&lists.src, count, random);
      lists.tensors.push_back({dst.index, src.index, count, sizeof(Dst), sizeof(Src),
                               lists.dst.size() - count * sizeof(Dst),
                               lists.src.size() - count * sizeof(Src)});
    });
  }
  return lists;
}

enum class Kind { kLerp, kCast, kSwap };

// Runs on a copy, and returns what both sides hold afterwards.
std::vector<uint8_t> run(Lists lists, const swa_fast::cpu::KernelTable& table, Kind kind,
                         int threads, bool own = false) {
  swa_fast::cpu::Launch launch;
  for (const Lists::Tensor& t : lists.tensors) {
    void* const dst = &lists.dst[t.dst_at];
    void* const src = &lists.src[t.src_at];
    if (kind == Kind::kSwap) {
      const int64_t bytes = t.count * std::min(t.dst_step, t.src_step);
      launch.add(segment_of(table.swap_bytes, dst, src, bytes, 1, 1), true);
    } else {
      const auto& kernels = kind == Kind::kLerp ? table.lerp : table.cast;
      const auto kernel = kernels[t.dst_type][t.src_type];
      launch.add(segment_of(kernel, dst, src, t.count, t.dst_step, t.src_step), true);
    }
  }
  launch.finish();
  const swa_fast::Action action = {swa_fast::Action::kBlend, swa_fast::mean_weight(4)};
  own ? launch.run_on_own_threads(&action, threads) : launch.run(&action, threads);
  lists.dst.insert(lists.dst.end(), lists.src.begin(), lists.src.end());
  return lists.dst;
}

}  // namespace

TEST(results_do_not_depend_on_the_number_of_threads) {
  const Lists lists = random_lists();
  std::vector<uint8_t> before = lists.dst;
  before.insert(before.end(), lists.src.begin(), lists.src.end());
  for_each_isa([&](const swa_fast::cpu::KernelTable& table) {
    for (const Kind kind : {Kind::kLerp, Kind::kCast, Kind::kSwap}) {
      const std::vector<uint8_t> expected = run(lists, table, kind, 1);
      CHECK(expected != before);
      for (int threads = 2; threads <= 8; ++threads) {
        CHECK_WITH(run(lists, table, kind, threads) == expected,
                   std::string(table.isa) + " on " + std::to_string(threads) + " threads");
        CHECK_WITH(run(lists, table, kind, threads, true) == expected,
                   std::string(table.isa) + " on " + std::to_string(threads) + " of its own");
      }
    }
  });
}

TEST(swapping_twice_restores) {
  const Lists lists = random_lists();
  const auto& table = swa_fast::cpu::active_kernels();
  Lists once = lists;
  const std::vector<uint8_t> swapped = run(once, table, Kind::kSwap, 3);
  once.dst.assign(swapped.begin(), swapped.begin() + static_cast<int64_t>(lists.dst.size()));
  once.src.assign(swapped.begin() + static_cast<int64_t>(lists.dst.size()), swapped.end());
  CHECK(once.dst != lists.dst);
  const std::vector<uint8_t> twice = run(once, table, Kind::kSwap, 2);
  CHECK(std::memcmp(twice.data(), lists.dst.data(), lists.dst.size()) == 0);
  CHECK(std::memcmp(twice.data() + lists.dst.size(), lists.src.data(), lists.src.size()) == 0);
}
