// Runs the kernels of one call over all its tensors, in one parallel region.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernel.h"

namespace swa_fast::cpu {

// One tensor pair with the kernel that serves it.
struct Segment {
  RangeKernel kernel;
  char* dst;
  char* src;
  int64_t count;     // elements, > 0
  int64_t dst_step;  // bytes from one element to the next
  int64_t src_step;
  int64_t end;  // bytes moved by the segments up to and including this one; set by `add`
};

// A call's worth of segments.
class Launch {
 public:
  explicit Launch(const Weight& weight) : weight_(weight) {}

  void reserve(size_t count) { segments_.reserve(count); }
  void add(RangeKernel kernel, void* dst, void* src, int64_t count, int64_t dst_step,
           int64_t src_step);
  int64_t bytes() const { return segments_.empty() ? 0 : segments_.back().end; }

  // Splits the bytes evenly over `threads` threads, wherever that falls in the tensors. Needs no
  // interpreter lock and throws nothing.
  void run(int threads) const noexcept;

 private:
  struct Position {
    size_t segment;
    int64_t element;
  };
  // Where the share of thread `index` of `threads` begins.
  Position share_begin(int index, int threads) const;
  void run_between(const Position& begin, const Position& end) const;

  Weight weight_;
  std::vector<Segment> segments_;
};

}  // namespace swa_fast::cpu
