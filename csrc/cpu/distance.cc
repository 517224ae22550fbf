#include "cpu/distance.h"

#include <algorithm>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "core/dtype.h"
#include "core/weight.h"
#include "cpu/float_environment.h"
#include "cpu/isa.h"

namespace swa_fast::cpu {
namespace {

// Numbers are converted to double this many at a time: 16 KiB, half of a first-level cache.
constexpr int64_t kBlock = 2048;

// Sums of squares that are kept apart, so that additions need not wait for each other.
constexpr int kLanes = 8;

Weight exactly(double weight) { return {0.0f, weight}; }

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
  // The kernels take what they only read as void*, like what they write.
  char* const one = const_cast<char*>(pair.one.data) + at * size_of(pair.one.storage);
  char* const other = const_cast<char*>(pair.other.data) + at * size_of(pair.other.storage);
  const int from = static_cast<int>(pair.other.storage);
  Squares squares;
  kernels.first_term[from](numbers, other, count, exactly(1.0));
  squares.other = sum_of_squares(numbers, count);
  kernels.next_term[static_cast<int>(pair.one.storage)](numbers, one, count, exactly(-1.0));
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
