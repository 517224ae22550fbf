// Refuses calls in which one write could change what another part of the call reads or writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace swa_fast {

// Memory of one tensor of a call; empty tensors are left out by the caller.
struct Range {
  uintptr_t begin;
  uintptr_t end;
  uint32_t pair;  // number of the pair, or the group, in the call
  int32_t side;   // 0 for its destination, 1 and more for its sources; for the message
};

// Throws ValueError unless every range that is written is disjoint from every other one and from
// every range that is read. What is read may be exactly the range that its own pair writes, and
// nothing in between. `name` tells what the user calls a side of a pair.
void check_overlap(std::vector<Range> written, const std::vector<Range>& read,
                   const std::function<std::string(const Range&)>& name);

}  // namespace swa_fast
