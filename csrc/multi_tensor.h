// One call over two lists of tensors: validate everything, then hand the work to the device.
#pragma once

#include <cstddef>
#include <vector>

#include "buffer.h"
#include "cpu/launch.h"
#include "element_op.h"

namespace swa_fast {

enum class Op {
  kLerp,  // dst += weight * (src - dst), floating types only
  kCopy,  // dst = src, same type or between floating types
  kSwap,  // exchange, same type only
};

// The two lists of a call and what the user calls them.
struct TensorLists {
  const char* dst_name;
  const char* src_name;
  const std::vector<Buffer>& dst;
  const std::vector<Buffer>& src;
};

// Work that has been validated as a whole and can no longer fail. Nothing has been written yet.
class Plan {
 public:
  // Throws Error if any part of the contract is broken; tests/python/test_safety.py has each rule.
  Plan(Op op, const TensorLists& lists, const Weight& weight);

  // True if there is nothing to do: no tensors, or only empty ones.
  bool empty() const { return cpu_.bytes() == 0; }

  // Does the work. Call it without the interpreter lock.
  void run() const noexcept;

 private:
  cpu::Launch cpu_;
};

}  // namespace swa_fast
