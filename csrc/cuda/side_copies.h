// Copies from CUDA devices to host memory beside whatever the devices compute.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <vector>

#include "cuda/backend.h"
#include "cuda/streams.h"

namespace swa_fast::cuda {

// One set of copies at a time: start(), then hold_back() as often as something is about to be
// written, then wait(). Each device has a side stream and an event, made when first needed and
// kept. By one thread at a time, but for wait(), beside which another thread may hold back.
class SideCopies {
 public:
  struct Copy {
    int device;
    void* to;  // pinned host memory
    void* from;
    size_t bytes;
  };

  SideCopies() = default;
  // Waits for what is under way.
  ~SideCopies();
  SideCopies(const SideCopies&) = delete;
  SideCopies& operator=(const SideCopies&) = delete;

  // Queues the copies, of the memory as it is after all work queued so far on `streams`. Throws
  // RuntimeError, and then nothing is under way: if one of the streams is being captured (nothing
  // was queued), or with CUDA's error by name and number.
  void start(const std::vector<Copy>& copies, const Streams& streams);

  // Lets what is queued on `streams` from now on wait, on the devices, for the copies.
  void hold_back(const Streams& streams) const;

  // Waits on the host, asleep, until the copies are made. Throws RuntimeError if CUDA fails.
  void wait() const;

 private:
  // What a device has for its copies.
  struct Side {
    int device;
    void* stream;
    void* event;
    bool busy;  // copies were queued by the last start()
  };
  Side& side_of(const Backend& backend, int device);
  void queue(const Backend& backend, const std::vector<Copy>& copies, const Streams& streams);
  void queue_copies(const Backend& backend, const std::vector<Copy>& copies, const Side& side);
  void abandon(const Backend& backend);

  std::vector<Side> sides_;
  bool in_batches_ = true;
  pid_t process_ = 0;  // where the sides were made: CUDA is of no use in a forked child
};

}  // namespace swa_fast::cuda
