// The rules of the contract that concern one pair of tensors or one argument. Each check throws the
// Error that names what was received; tests/python/test_safety.py has each rule.
#pragma once

#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/error.h"
#include "core/overlap.h"

namespace swa_fast {

// What is done to the pairs of two lists.
enum class Op {
  kLerp,     // dst += weight * (src - dst), floating types only
  kTfaMean,  // dst = (dst * count + src) / (count + 1), floating types only
  kCopy,     // dst = src, same type or between floating types
  kSwap,     // exchange, same type only
};

// Two lists of a call and what the user calls them.
struct TensorLists {
  const char* dst_name;
  const char* src_name;
  const std::vector<Buffer>& dst;
  const std::vector<Buffer>& src;
};

// A running mean's count in device memory: the kernel reads it when it runs. Its weight is not
// known before.
struct Counter {
  const char* name;
  const Buffer& buffer;
};

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
  Refusal refusal(const char* rule) const { return {rule, static_cast<int64_t>(index)}; }
};

// What a pair's elements are to the kernels.
struct Work {
  bool floating;    // numbers of the two storage types; else bytes
  StorageType dst;  // if floating
  StorageType src;
  int per_element;   // numbers, or bytes, in one element of the tensor
  int32_t dst_step;  // bytes per number; of bytes, 1
  int32_t src_step;
  // What the addresses must be multiples of: arithmetic and conversions read and write whole
  // numbers, which C++ wants aligned; copies and swaps of bits do not care.
  int32_t dst_alignment;
  int32_t src_alignment;
};

void check_lengths(const TensorLists& lists);

// Both sides on one device, and that one within reach.
void check_devices_of(const Pair& pair);

// Devices, shapes, writability, layout.
void check_pair(Op op, const Pair& pair);

// Checks the rules on element types, and finds what the kernels see.
Work find_work(Op op, const Pair& pair);

void check_alignment(const Work& work, const Pair& pair);

void check_counter_device(const Counter& counter);
void check_counter(const Counter& counter);

// The counter is read while the pairs are written.
void check_counter_of(const Counter& counter, const Pair& pair, const Range& written);

}  // namespace swa_fast
