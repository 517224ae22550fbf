#include "core/overlap.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace swa_fast {
namespace {

[[noreturn]] void refuse(const std::string& first, const std::string& second) {
  throw_value_error(first + " and " + second +
                        " overlap in memory: every tensor that is written must be disjoint from "
                        "the others of the call",
                    {"overlap", -1});
}

}  // namespace

void check_overlap(std::vector<Range> written, const std::vector<Range>& read,
                   const std::function<std::string(const Range&)>& name) {
  const auto by_begin = [](const Range& a, const Range& b) { return a.begin < b.begin; };
  if (!std::is_sorted(written.begin(), written.end(), by_begin)) {
    std::sort(written.begin(), written.end(), by_begin);
  }
  for (size_t i = 1; i < written.size(); ++i) {
    const Range& low = written[i - 1];
    const Range& high = written[i];
    if (high.begin < low.end) refuse(name(low), name(high));
  }

  // Written ranges are disjoint and sorted now. The first one that ends behind a source's start is
  // the only one that has to be looked at: if it is the source's own, identical range, no other
  // can reach into it. Sources mostly follow each other in memory like the destinations do, so the
  // gap found for the last source is tried before searching.
  size_t gap = 0;
  for (const Range& r : read) {
    const bool hint_holds = (gap == 0 || written[gap - 1].end <= r.begin) &&
                            (gap == written.size() || r.begin < written[gap].end);
    if (!hint_holds) {
      gap = std::upper_bound(written.begin(), written.end(), r.begin,
                             [](uintptr_t begin, const Range& w) { return begin < w.end; }) -
            written.begin();
    }
    if (gap == written.size()) continue;
    const Range& next = written[gap];
    if (next.begin >= r.end) continue;
    const bool own = next.pair == r.pair && next.begin == r.begin && next.end == r.end;
    if (!own) refuse(name(next), name(r));
  }
}

}  // namespace swa_fast
