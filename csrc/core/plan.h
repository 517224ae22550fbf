// The one engine: groups of one value and its targets, validated once, run as often as the tensors
// stay what they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/action.h"
#include "core/buffer.h"
#include "core/rules.h"
#include "core/signature.h"
#include "cpu/launch.h"
#include "cuda/launch.h"

namespace swa_fast {

// One list of targets: its item i belongs to value i, or to value of[i].
struct Targets {
  enum Role {
    kAverage,  // moved by the snapshots of its average
    kCopy,     // becomes the value in every snapshot of its average
    kView,     // shows an average in another type: becomes that after every snapshot of it
  };
  const char* name;
  const std::vector<Buffer>& buffers;
  Role role = kAverage;
  int average = 0;              // whose action counts
  int shown = -1;               // of a view: the index, in the lists of the call, of what it shows
  std::vector<size_t> of = {};  // in ascending order; empty: every value has a target
  std::vector<size_t> copied =
      {};  // in ascending order: the items that are copied, whatever `role`
};

// The checks of a plan that need no more than the devices of the buffers: equal lengths, both sides
// of a pair on one device, and that one within reach; and the counter's, if there is one.
void check_devices(const TensorLists& lists, const Counter* counter);

// Usage: add() once or more, prepare(), then run(); before a run on tensors that were looked at
// anew, matches(). Nothing is written before run().
class Plan {
 public:
  // A plan that is kept remembers what it was made for, which matches() needs. A counter, if given,
  // is where the weight of average 0 comes from.
  explicit Plan(bool kept = false, const Counter* counter = nullptr);

  // Adds a group for each value: value i and item i of every list of targets, or, with kSwap, two
  // lists that are both written. Throws Error if a rule that concerns single pairs is broken.
  void add(Op op, const char* values_name, const std::vector<Buffer>& values,
           const std::vector<Targets>& targets);

  // Checks the rules that concern all pairs together. Throws Error.
  void prepare();

  // True if the values are what the plan was prepared for, at whatever addresses: the next run uses
  // the new ones. False if a new plan is needed: they differ in number, type, shape, layout, device
  // or alignment, or a swap's have moved. Throws Error if at the new addresses a rule is broken. If
  // it is false, or throws, the plan is as before. The values are those of all add(), in order.
  bool matches(const std::vector<Buffer>& values);
  // The same for one value, if nothing has moved.
  bool is_same(size_t index, const Buffer& value) const { return values_.is_same(index, value); }

  // True if there is nothing to do: no tensors, or only empty ones.
  bool empty() const { return cpu_.empty() && cuda_.empty(); }

  // Does the work, by the action of each average: on the CPU before it returns, on CUDA devices in
  // the order of their streams. Call it without the interpreter lock, and from one thread at a
  // time. With `own_threads`, the CPU's part takes at most so many threads, made for this run, and
  // leaves OpenMP's alone: for work in the background. Throws RuntimeError if CUDA refuses a
  // launch; nothing else can fail.
  void run(const Action* actions, const cuda::Streams& streams = {}, int own_threads = 0);

  // Checks that a snapshot can be taken under a gate with the counts in `counts`: an int64 tensor
  // of gate_words(averages) elements on the one CUDA device of all pairs, in memory of its own.
  // Throws Error.
  cuda::Gate check_gate(const char* name, const Buffer& counts, int averages) const;
  // Takes a snapshot unless a value is NaN or infinite, which is found on the device, and counts it
  // there; nothing is waited for. Only of a plan that is kept. Throws as run().
  void run_gated(const Action* actions, const cuda::Streams& streams, const cuda::Gate& gate);

 private:
  // A pair, found again when its value moves.
  struct Place {
    Work work;
    bool on_cuda;
    bool reads_value;  // else it reads another target: a view
    uint32_t value;    // index among the values of all add()
    size_t at;         // in cpu_ or cuda_
  };
  // The names of the pairs from `first` on, in the order of add().
  struct Names {
    size_t first;
    const char* dst;
    const char* src;
    std::vector<size_t> of;  // as in Targets
  };
  struct Cursor;
  void add_pair(Op op, const Pair& pair, const Targets& target, bool follows, const Work& work,
                bool starts);
  void add_ranges(Op op, const Pair& pair, Targets::Role role, uint32_t number);
  std::string name_of(const Range& range) const;
  bool rebind(const std::vector<Buffer>& values);

  bool kept_;
  bool swaps_ = false;
  const Counter* counter_;
  cpu::Launch cpu_;
  cuda::Launch cuda_;
  std::vector<Range> written_;
  std::vector<Range> read_;
  std::vector<Names> names_;
  size_t pairs_ = 0;
  // Of a plan that is kept:
  Signature values_;
  std::vector<Place> places_;
  cuda::FiniteCheck finite_;
};

}  // namespace swa_fast
