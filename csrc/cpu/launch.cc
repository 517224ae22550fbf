#include "cpu/launch.h"

#include <algorithm>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/float_environment.h"

namespace swa_fast::cpu {
namespace {

// Shares begin at multiples of this many elements within a tensor: at least a cache line of the
// narrowest type, so that two threads rarely write to the same line.
constexpr int64_t kShareGranule = 64;

}  // namespace

void Launch::add(RangeKernel kernel, void* dst, void* src, int64_t count, int64_t dst_step,
                 int64_t src_step) {
  const int64_t end = bytes() + count * (dst_step + src_step);
  segments_.push_back(
      {kernel, static_cast<char*>(dst), static_cast<char*>(src), count, dst_step, src_step, end});
}

Launch::Position Launch::share_begin(int index, int threads) const {
  if (index == threads) return {segments_.size(), 0};
  // bytes() * index could overflow; the quotient first, then the remainder's part.
  const int64_t total = bytes();
  const int64_t target = total / threads * index + total % threads * index / threads;
  const auto holds_target =
      std::upper_bound(segments_.begin(), segments_.end(), target,
                       [](int64_t bytes, const Segment& segment) { return bytes < segment.end; });
  const Segment& segment = *holds_target;
  const int64_t step = segment.dst_step + segment.src_step;
  const int64_t begin = segment.end - segment.count * step;
  const int64_t element = (target - begin) / step / kShareGranule * kShareGranule;
  return {static_cast<size_t>(holds_target - segments_.begin()), element};
}

void Launch::run_between(const Position& begin, const Position& end) const {
  const DefaultFloatEnvironment environment;
  for (size_t i = begin.segment; i <= end.segment && i < segments_.size(); ++i) {
    const Segment& s = segments_[i];
    const int64_t first = i == begin.segment ? begin.element : 0;
    const int64_t last = i == end.segment ? end.element : s.count;
    if (first < last) {
      s.kernel(s.dst + first * s.dst_step, s.src + first * s.src_step, last - first, weight_);
    }
  }
}

void Launch::run([[maybe_unused]] int threads) const noexcept {
  if (segments_.empty()) return;
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      // The runtime may have granted fewer threads than asked for.
      const int granted = omp_get_num_threads();
      const int index = omp_get_thread_num();
      run_between(share_begin(index, granted), share_begin(index + 1, granted));
    }
    return;
  }
#endif
  run_between({0, 0}, {segments_.size(), 0});
}

}  // namespace swa_fast::cpu
