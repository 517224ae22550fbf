// One call over two lists of tensors: validate everything, then hand the work to the device.
#pragma once

#include <cstddef>
#include <vector>

#include "core/buffer.h"
#include "core/op.h"
#include "core/overlap.h"
#include "cpu/launch.h"
#include "cuda/launch.h"

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

// A running mean's count in device memory: the kernel reads it when it runs. Its weight is not
// known before, so the one given to the plan is not used.
struct Counter {
  const char* name;
  const Buffer& buffer;
};

// The checks of a plan that need no more than the devices of the buffers: equal lengths, both sides
// of a pair on one device, and that one within reach; and the counter's, if there is one.
void check_devices(const TensorLists& lists, const Counter* counter);

// Work that has been validated as a whole. Nothing has been written yet.
class Plan {
 public:
  // `copies`: lists of which the same call copies the second into the first. Throws Error if any
  // part of the contract is broken.
  Plan(Op op, const TensorLists& lists, const Weight& weight, const Counter* counter = nullptr,
       const TensorLists* copies = nullptr);

  // True if there is nothing to do: no tensors, or only empty ones.
  bool empty() const { return cpu_.bytes() == 0 && cuda_.empty(); }

  // False if the first lists stay as they are, whatever is copied.
  bool writes_lists() const { return writes_lists_; }

  // Does the work: on the CPU before it returns, on CUDA devices in the order of their streams.
  // Call it without the interpreter lock. Throws RuntimeError if CUDA refuses a launch; nothing
  // else can fail.
  void run(const cuda::Streams& streams = {}) const;

 private:
  struct Effect {
    Op rules;             // whose rules hold
    Op effect;            // what is done
    bool writes_nothing;  // although the rules hold
  };
  // Checks and adds the pairs of `lists`, the first of which is number `first` of the call.
  void add(const Effect& op, const TensorLists& lists, const Counter* counter, size_t first,
           std::vector<PairRange>* ranges);

  Weight weight_;
  bool writes_lists_ = true;
  cpu::Launch cpu_;
  cuda::Launch cuda_;
};

}  // namespace swa_fast
