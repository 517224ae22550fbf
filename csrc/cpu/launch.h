// Runs the kernels of one call over all its tensors, in one parallel region.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/action.h"
#include "cpu/kernel.h"

namespace swa_fast::cpu {

// One target of a value, with the kernels that serve it.
struct Segment {
  RangeKernel blend;  // moves the average; of a follower, the same as `copy`
  RangeKernel copy;
  char* dst;
  char* src;
  int64_t count;     // elements, > 0
  int32_t dst_step;  // bytes from one element to the next
  int32_t src_step;
  int64_t end;      // bytes moved by all groups up to and including this one's; set by finish()
  int32_t span;     // segments of the group that begins here; 0 of one that belongs to it
  int16_t average;  // whose action counts
  bool follows;     // is copied whenever the average is due, whatever its weight
};

// A call's worth of segments, in groups: the segments of a group have one count, and the first is
// the one whose source is read first. In a group of several the elements are taken a block at a
// time, segment after segment, so that the value comes from memory once.
class Launch {
 public:
  void reserve(size_t count) { segments_.reserve(count); }

  // Adds a segment; `starts` says whether it begins a group.
  void add(const Segment& segment, bool starts);
  // Ends the list: nothing is added after it.
  void finish();

  bool empty() const { return segments_.empty(); }
  size_t size() const { return segments_.size(); }
  Segment& at(size_t index) { return segments_[index]; }
  // Bytes that the segments read and write under `actions`, which has one for each average.
  int64_t bytes(const Action* actions) const;

  // Splits the bytes evenly over `threads` threads, wherever that falls in the tensors. Needs no
  // interpreter lock and throws nothing.
  void run(const Action* actions, int threads) const noexcept;
  // The same on threads made for it, of which none is left and none waits by spinning.
  void run_on_own_threads(const Action* actions, int threads) const noexcept;

 private:
  struct Position {
    size_t segment;  // the first of a group
    int64_t element;
  };
  // Where the share of thread `index` of `threads` begins.
  Position share_begin(int index, int threads) const;
  void run_between(const Action* actions, const Position& begin, const Position& end) const;
  void run_group(const Action* actions, size_t first, int64_t begin, int64_t end) const;

  std::vector<Segment> segments_;
  // Bytes of all segments: of averages (at 2 * average) and of followers (behind it).
  std::vector<int64_t> bytes_of_;
};

}  // namespace swa_fast::cpu
