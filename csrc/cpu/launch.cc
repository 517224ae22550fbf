#include "cpu/launch.h"

#include <algorithm>
#include <exception>
#include <thread>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/float_environment.h"

namespace swa_fast::cpu {
namespace {

// Shares begin at multiples of this many elements within a tensor: at least a cache line of the
// narrowest type, so that two threads rarely write to the same line.
constexpr int64_t kShareGranule = 64;

// Bytes of the value that are taken at a time where it has several targets: it then comes from
// memory for the first of them, and from the first-level cache for the others. Measured: see
// docs/performance.md, "Several averages in one pass".
constexpr int64_t kBlockBytes = 16 * 1024;

int64_t bytes_of(const Segment& segment) {
  return segment.count * (segment.dst_step + segment.src_step);
}

// The kernel that `action` calls for, or nullptr for none.
RangeKernel kernel_for(const Segment& segment, const Action& action) {
  switch (action.kind) {
    case Action::kBlend:
      return segment.blend;
    case Action::kCopy:
      return segment.copy;
    case Action::kKeep:
      return segment.follows ? segment.copy : nullptr;
    default:
      return nullptr;
  }
}

}  // namespace

void Launch::add(const Segment& segment, bool starts) {
  const size_t index = 2 * static_cast<size_t>(segment.average) + (segment.follows ? 1 : 0);
  if (index >= bytes_of_.size()) bytes_of_.resize(index + 1);
  const int64_t bytes = swa_fast::cpu::bytes_of(segment);
  bytes_of_[index] += bytes;
  segments_.push_back(segment);
  Segment& added = segments_.back();
  added.span = starts ? 1 : 0;
  const int64_t before = segments_.size() == 1 ? 0 : segments_[segments_.size() - 2].end;
  added.end = before + bytes;
}

void Launch::finish() {
  size_t first = 0;
  for (size_t i = 1; i < segments_.size(); ++i) {
    if (segments_[i].span != 0) {
      first = i;
      continue;
    }
    ++segments_[first].span;
    for (size_t member = first; member < i; ++member) segments_[member].end = segments_[i].end;
  }
}

int64_t Launch::bytes(const Action* actions) const {
  int64_t total = 0;
  for (size_t index = 0; index < bytes_of_.size(); ++index) {
    const Action::Kind kind = actions[index / 2].kind;
    const bool moves = index % 2 == 1 ? kind != Action::kNothing : kind > Action::kKeep;
    if (moves) total += bytes_of_[index];
  }
  return total;
}

Launch::Position Launch::share_begin(int index, int threads) const {
  if (index == threads) return {segments_.size(), 0};
  // The total times `index` could overflow; the quotient first, then the remainder's part.
  const int64_t total = segments_.back().end;
  const int64_t target = total / threads * index + total % threads * index / threads;
  const auto holds_target =
      std::upper_bound(segments_.begin(), segments_.end(), target,
                       [](int64_t bytes, const Segment& segment) { return bytes < segment.end; });
  const auto group = static_cast<size_t>(holds_target - segments_.begin());
  const int64_t before = group == 0 ? 0 : segments_[group - 1].end;
  const int64_t step = (segments_[group].end - before) / segments_[group].count;
  const int64_t element = (target - before) / step / kShareGranule * kShareGranule;
  return {group, element};
}

void Launch::run_group(const Action* actions, size_t first, int64_t begin, int64_t end) const {
  const Segment* const segments = &segments_[first];
  const int span = segments->span;
  int64_t step = end - begin;
  if (span > 1) {
    step = std::max(kBlockBytes / segments->src_step / kShareGranule, int64_t{1}) * kShareGranule;
  }
  for (int64_t at = begin; at < end; at += step) {
    const int64_t count = std::min(step, end - at);
    for (int i = 0; i < span; ++i) {
      const Segment& s = segments[i];
      const Action& action = actions[s.average];
      if (const RangeKernel kernel = kernel_for(s, action)) {
        kernel(s.dst + at * s.dst_step, s.src + at * s.src_step, count, action.weight);
      }
    }
  }
}

void Launch::run_between(const Action* actions, const Position& begin, const Position& end) const {
  const DefaultFloatEnvironment environment;
  for (size_t i = begin.segment; i <= end.segment && i < segments_.size();
       i += static_cast<size_t>(segments_[i].span)) {
    const int64_t first = i == begin.segment ? begin.element : 0;
    const int64_t last = i == end.segment ? end.element : segments_[i].count;
    if (first < last) run_group(actions, i, first, last);
  }
}

void Launch::run(const Action* actions, [[maybe_unused]] int threads) const noexcept {
  if (segments_.empty()) return;
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      // The runtime may have granted fewer threads than asked for.
      const int granted = omp_get_num_threads();
      const int index = omp_get_thread_num();
      run_between(actions, share_begin(index, granted), share_begin(index + 1, granted));
    }
    return;
  }
#endif
  run_between(actions, {0, 0}, {segments_.size(), 0});
}

void Launch::run_on_own_threads(const Action* actions, int threads) const noexcept {
  if (segments_.empty()) return;
  const auto run_share = [&](int index) {
    run_between(actions, share_begin(index, threads), share_begin(index + 1, threads));
  };
  std::vector<std::thread> others;
  int next = 1;
  try {
    others.reserve(static_cast<size_t>(threads));
    for (; next < threads; ++next) others.emplace_back(run_share, next);
  } catch (const std::exception&) {  // the system gives no more of them
  }
  run_share(0);
  for (; next < threads; ++next) run_share(next);
  for (std::thread& other : others) other.join();
}

}  // namespace swa_fast::cpu
