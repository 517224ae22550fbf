// Collects the pairs of a plan that are on CUDA devices, and queues the kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "core/action.h"
#include "cuda/backend.h"
#include "cuda/kernel.h"

namespace swa_fast::cuda {

// Where the work for each device is queued.
class Streams {
 public:
  struct Choice {
    int device;
    void* stream;
    bool synchronize;  // wait for the work before the call returns
  };

  void set(const Choice& choice) { choices_.push_back(choice); }
  // The legacy default stream, waited for, where nothing was set.
  Choice of(int device) const;

 private:
  std::vector<Choice> choices_;
};

// What serves a pair: `blend` moves an average, `copy` makes it the value. Both see the elements
// alike.
struct Kernels {
  const Kernel* blend;
  const Kernel* copy;
};

class Launch {
 public:
  // One launch per device, kernel, average and table. Pairs must not share written memory: their
  // order is not kept, but for followers, which come after all averages.
  void add(const Kernels& kernels, int device, void* dst, void* src, int64_t count, int average,
           bool follows);

  bool empty() const { return pairs_.empty(); }
  size_t size() const { return pairs_.size(); }

  // Another address for the source of the pair added `index`-th. False, and nothing is changed, if
  // it suits the pair's kernels less.
  bool set_source(size_t index, void* src);

  // The pairs are on device `counter`'s alone where there is a counter.
  void set_counter(const int64_t* counter) { counter_ = counter; }

  // Queues everything that `actions`, one for each average, call for. Throws RuntimeError with
  // CUDA's error by name and number if a launch fails; what was queued before it is not undone.
  void run(const Action* actions, const Streams& streams) const;

 private:
  struct Entry {
    void* dst;
    void* src;
    int64_t count;
  };
  struct Group {
    Kernels kernels;
    int device;
    int average;
    bool follows;
    std::vector<Entry> entries;
    int64_t tiles;  // of all entries, about

    // Whether `actions` call for work of this group.
    bool is_due(const Action* actions) const;
  };
  // Where the entries of a pair are.
  struct Place {
    uint32_t group;
    uint32_t first;
    uint32_t count;
  };
  template <int kCapacity>
  void run_group(const Backend& backend, const Group& group, const Kernel& kernel,
                 const Weight& weight, void* stream) const;
  void run_groups(const Backend& backend, const Action* actions, const Streams& streams,
                  bool followers) const;
  struct Failure {
    int error;
    int device;
    explicit operator bool() const { return error != 0; }
  };
  // Waits where a stream was chosen to be waited for and work was due; returns the first failure.
  Failure wait(const Backend& backend, const Action* actions, const Streams& streams) const;

  std::vector<Group> groups_;
  std::vector<Place> pairs_;
  const int64_t* counter_ = nullptr;
};

}  // namespace swa_fast::cuda
