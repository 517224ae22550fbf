// Refuses calls in which one write could change what another part of the call reads or writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace swa_fast {

// Memory of one pair. Empty pairs are left out by the caller; `pair` is its number in the call, for
// the message.
struct PairRange {
  uintptr_t dst_begin;
  uintptr_t dst_end;
  uintptr_t src_begin;
  uintptr_t src_end;
  size_t pair;
};

// Throws ValueError unless every destination range is disjoint from every other destination and
// from every source of another pair. A pair's own source may be exactly its destination, and
// nothing in between. `src_is_written` (swap) makes sources count as destinations too.
// `name` tells what the user calls a side of a pair.
void check_overlap(const std::vector<PairRange>& ranges,
                   const std::function<std::string(size_t pair, bool is_src)>& name,
                   bool src_is_written);

}  // namespace swa_fast
