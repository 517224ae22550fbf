#include "core/overlap.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace swa_fast {
namespace {

struct Written {
  uintptr_t begin;
  uintptr_t end;
  size_t pair;
  bool is_src;
};

[[noreturn]] void refuse(const std::string& first, const std::string& second) {
  throw_value_error(first + " and " + second +
                    " overlap in memory: every tensor that is written must be disjoint from the "
                    "others of the call");
}

}  // namespace

void check_overlap(const std::vector<PairRange>& ranges,
                   const std::function<std::string(size_t pair, bool is_src)>& name,
                   bool src_is_written) {
  std::vector<Written> written;
  written.reserve(ranges.size() * (src_is_written ? 2 : 1));
  bool sorted = true;
  const auto add = [&](const Written& range) {
    sorted = sorted && (written.empty() || written.back().begin <= range.begin);
    written.push_back(range);
  };
  for (const PairRange& r : ranges) {
    add({r.dst_begin, r.dst_end, r.pair, false});
    const bool same = r.src_begin == r.dst_begin && r.src_end == r.dst_end;
    if (src_is_written && !same) add({r.src_begin, r.src_end, r.pair, true});
  }
  const auto by_begin = [](const Written& a, const Written& b) { return a.begin < b.begin; };
  if (!sorted) std::sort(written.begin(), written.end(), by_begin);
  for (size_t i = 1; i < written.size(); ++i) {
    const Written& low = written[i - 1];
    const Written& high = written[i];
    if (high.begin < low.end) refuse(name(low.pair, low.is_src), name(high.pair, high.is_src));
  }
  if (src_is_written) return;

  // Written ranges are disjoint and sorted now. The first one that ends behind a source's start is
  // the only one that has to be looked at: if it is the source's own, identical range, no other
  // can reach into it. Sources mostly follow each other in memory like the destinations do, so the
  // gap found for the last source is tried before searching.
  size_t gap = 0;
  for (const PairRange& r : ranges) {
    const bool hint_holds = (gap == 0 || written[gap - 1].end <= r.src_begin) &&
                            (gap == written.size() || r.src_begin < written[gap].end);
    if (!hint_holds) {
      gap = std::upper_bound(written.begin(), written.end(), r.src_begin,
                             [](uintptr_t begin, const Written& w) { return begin < w.end; }) -
            written.begin();
    }
    if (gap == written.size()) continue;
    const Written& next = written[gap];
    if (next.begin >= r.src_end) continue;
    const bool own = next.pair == r.pair && next.begin == r.src_begin && next.end == r.src_end;
    if (!own) refuse(name(next.pair, false), name(r.pair, true));
  }
}

}  // namespace swa_fast
