// Collects the pairs of a plan that are on CUDA devices, and queues the kernels.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/action.h"
#include "cuda/backend.h"
#include "cuda/finite_check.h"
#include "cuda/gate.h"
#include "cuda/kernel.h"
#include "cuda/rows.h"
#include "cuda/streams.h"

namespace swa_fast::cuda {

// What serves a pair: `blend` moves an average, `copy` makes it the value. Both see the elements
// alike.
struct Kernels {
  const Kernel* blend;
  const Kernel* copy;

  bool operator==(const Kernels& other) const { return blend == other.blend && copy == other.copy; }
};

// When a pair has its turn. Copies and views follow their average: they are copied whenever it is
// due, whatever its weight.
enum class Turn {
  kAverage,
  kCopy,  // of a value
  kView,  // of what an earlier turn has written
};

class Launch {
 public:
  // Adds a pair; `starts` says whether it is the first of a value. Pairs of one value with the same
  // kernels and source become targets of one row, so that a launch reads the value once for them.
  // Pairs must not share written memory: their order is not kept, but for their turns.
  void add(const Kernels& kernels, int device, void* dst, void* src, int64_t count, int average,
           Turn turn, bool starts);
  // Writes the tables of the launches: after the last pair, and after sources have moved.
  void finish();

  bool empty() const { return pairs_.empty(); }
  size_t size() const { return pairs_.size(); }

  // Whether the kernels of the pair added `index`-th can read from this address.
  bool suits(size_t index, const void* src) const;
  // Another address for its source, which suits.
  void set_source(size_t index, void* src);

  // Where the number of average 0 comes from, if that is on the device, which then is the only one.
  void set_counter(int64_t* counter) { counter_ = counter; }

  // Queues everything that `actions`, one for each average, call for: the header of each table is
  // written, the rows stay as they are. Not by two threads at once. Throws RuntimeError with CUDA's
  // error by name and number if a launch fails; what was queued before it is not undone.
  //
  // With a gate, everything must be on its device, and the counts are its own: an average whose
  // count is 0 becomes the value, a mean takes its weight from the count, and nothing is done where
  // `check` finds that a value is not finite.
  void run(const Action* actions, const Streams& streams, const Gate* gate = nullptr,
           FiniteCheck* check = nullptr);
  // The device of all pairs; -1 if there are none, or several.
  int only_device() const;

 private:
  // What a launch has in common with others that could be one with it.
  struct Kind {
    Kernels kernels;
    int device;
    Turn turn;
    int targets;
    std::array<int, kMaxTargets> average;  // of each target

    bool operator==(const Kind& other) const;
    // Whether `actions` call for work on a target, or on any.
    bool is_due(int target, const Action* actions) const;
    bool is_due(const Action* actions) const;
  };
  // A value with targets of one kind.
  struct Entry {
    Kind kind;
    char* src;
    std::array<char*, kMaxTargets> dst;
    int64_t count;
  };
  struct Group {
    Kind kind;
    std::vector<uint32_t> entries;
    std::vector<Rows> tables;
    bool stale;
  };
  void assign_entries();
  void fill(Group* group, size_t most_bytes) const;
  void run_group(const Backend& backend, Group* group, const Action* actions, const Gate* gate,
                 void* stream) const;
  void count_snapshot(const Backend& backend, const Action* actions, const Gate& gate, int device,
                      void* stream) const;

  std::vector<Entry> entries_;
  std::vector<uint32_t> pairs_;  // the entry of each
  size_t first_of_value_ = 0;    // entry
  size_t assigned_ = 0;          // entries that have a group
  std::vector<uint32_t> group_of_;
  std::vector<Group> groups_;
  int64_t* counter_ = nullptr;
};

}  // namespace swa_fast::cuda
