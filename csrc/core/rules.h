// The rules of the contract that concern one pair of tensors or one argument. Each check throws the
// Error that names what was received; tests/python/test_safety.py has each rule.
#pragma once

#include <string>

#include "core/error.h"
#include "core/overlap.h"
#include "core/plan.h"

namespace swa_fast {

// One pair, with what is needed to name it in a message.
struct Pair {
  const TensorLists& lists;
  size_t index;

  const Buffer& dst() const { return lists.dst[index]; }
  const Buffer& src() const { return lists.src[index]; }
  std::string dst_name() const { return item_name(lists.dst_name, index); }
  std::string src_name() const { return item_name(lists.src_name, index); }

  // "averages[3] has shape (2, 3), values[3] has shape (3, 2)"
  std::string differ(const char* what, const std::string& dst_has,
                     const std::string& src_has) const {
    return dst_name() + " has " + what + " " + dst_has + ", " + src_name() + " has " + what + " " +
           src_has;
  }
};

// What is to be done to a pair's elements, and what those are.
struct Work {
  enum Kind { kLerp, kCast, kCopyBits, kSwapBits } kind;
  StorageType dst;  // of kLerp and kCast
  StorageType src;
  int per_element;   // numbers in one element of the tensor; of bits, bytes
  int64_t dst_step;  // bytes per number; of bits, 1
  int64_t src_step;
  // What the addresses must be multiples of: kernels on floating types read and write whole
  // numbers, which C++ wants aligned; byte-wise copies and swaps do not care.
  int64_t dst_alignment;
  int64_t src_alignment;
};

void check_lengths(const TensorLists& lists);

// Both sides on one device, and that one within reach.
void check_devices_of(const Pair& pair);

// Devices, shapes, writability, layout.
void check_pair(Op op, const Pair& pair);

// Checks the rules on element types that `rules` sets, and finds the work that has `effect`.
Work find_work(Op rules, Op effect, const Pair& pair);

void check_alignment(const Work& work, const Pair& pair);

void check_counter_device(const Counter& counter);
void check_counter(const Counter& counter);

// The counter is read while the pairs are written.
void check_counter_of(const Counter& counter, const Pair& pair, const PairRange& range);

}  // namespace swa_fast
