// Collects the pairs of one call that are on CUDA devices, and queues the kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "core/op.h"
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

class Launch {
 public:
  // One launch per device, kernel and table. Pairs must not share written memory: their order is
  // not kept.
  void add(const Kernel& kernel, int device, void* dst, void* src, int64_t count);

  bool empty() const { return groups_.empty(); }

  // The pairs are on device `counter`'s alone where there is a counter.
  void set_counter(const int64_t* counter) { counter_ = counter; }

  // Queues everything. Throws RuntimeError with CUDA's error by name and number if a launch fails;
  // what was queued before it is not undone.
  void run(const Weight& weight, const Streams& streams) const;

 private:
  struct Entry {
    void* dst;
    void* src;
    int64_t count;
  };
  struct Group {
    const Kernel* kernel;
    int device;
    std::vector<Entry> entries;
    int64_t tiles;  // of all entries, about
  };
  template <int kCapacity>
  void run_group(const Backend& backend, const Group& group, const Weight& weight,
                 void* stream) const;
  struct Failure {
    int error;
    int device;
    explicit operator bool() const { return error != 0; }
  };
  // Waits where a stream was chosen to be waited for; returns the first failure.
  Failure wait(const Backend& backend, const Streams& streams) const;

  std::vector<Group> groups_;
  size_t last_group_ = 0;
  const int64_t* counter_ = nullptr;
};

}  // namespace swa_fast::cuda
