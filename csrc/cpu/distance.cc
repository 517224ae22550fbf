#include "cpu/distance.h"

#include <algorithm>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "core/dtype.h"
#include "cpu/float_environment.h"
#include "cpu/isa.h"

namespace swa_fast::cpu {
namespace {

// Numbers are converted to double this many at a time: 16 KiB, half of a first-level cache.
constexpr int64_t kBlock = 2048;

// Sums of squares that are kept apart, so that additions need not wait for each other.
constexpr int kLanes = 8;

double sum_of_squares(const double* numbers, int64_t count) {
  double lanes[kLanes] = {};
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += numbers[i + lane] * numbers[i + lane];
    }
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  for (int64_t i = whole; i < count; ++i) sum += numbers[i] * numbers[i];
  return sum;
}

}  // namespace

void DistanceLaunch::add(const Term& one, const Term& other, int64_t count) {
  pairs_.push_back({one, other, count, blocks_});
  blocks_ += (count + kBlock - 1) / kBlock;
  bytes_ += count * (size_of(one.storage) + size_of(other.storage));
}

DistanceLaunch::Squares DistanceLaunch::squares_of(int64_t block) const {
  const auto next = std::upper_bound(
      pairs_.begin(), pairs_.end(), block,
      [](int64_t number, const PairOf& pair) { return number < pair.first_block; });
  const PairOf& pair = *std::prev(next);
  const KernelTable& kernels = active_kernels();
  const int64_t at = (block - pair.first_block) * kBlock;
  const int64_t count = std::min(kBlock, pair.count - at);
  double numbers[kBlock];
  const auto sum = [&](const auto& kernels_of, const Term& term, double weight) {
    const char* const data = term.data + at * size_of(term.storage);
    kernels_of[static_cast<int>(term.storage)][0](numbers, &data, &weight, count);
  };
  Squares squares;
  sum(kernels.start_sums, pair.other, 1.0);
  squares.other = sum_of_squares(numbers, count);
  sum(kernels.add_to_sums, pair.one, -1.0);
  squares.difference = sum_of_squares(numbers, count);
  return squares;
}

std::vector<DistanceLaunch::Squares> DistanceLaunch::run([[maybe_unused]] int threads) const {
  std::vector<Squares> of_blocks(static_cast<size_t>(blocks_));
  const auto run_share = [&](int64_t begin, int64_t end) {
    const DefaultFloatEnvironment environment;
    for (int64_t block = begin; block < end; ++block) {
      of_blocks[static_cast<size_t>(block)] = squares_of(block);
    }
  };
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int granted = omp_get_num_threads();
      const int index = omp_get_thread_num();
      run_share(blocks_ * index / granted, blocks_ * (index + 1) / granted);
    }
  } else {
    run_share(0, blocks_);
  }
#else
  run_share(0, blocks_);
#endif
  std::vector<Squares> all(pairs_.size());
  for (size_t i = 0; i < pairs_.size(); ++i) {
    const int64_t end = i + 1 < pairs_.size() ? pairs_[i + 1].first_block : blocks_;
    for (int64_t block = pairs_[i].first_block; block < end; ++block) {
      all[i].difference += of_blocks[static_cast<size_t>(block)].difference;
      all[i].other += of_blocks[static_cast<size_t>(block)].other;
    }
  }
  return all;
}

}  // namespace swa_fast::cpu
