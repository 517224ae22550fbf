// Making devices current, launching, and waiting for streams.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "cuda/backend.h"
#include "cuda/rows.h"
#include "cuda/streams.h"

namespace swa_fast::cuda {

[[noreturn]] inline void fail(const Backend& backend, int error, const std::string& operation) {
  throw_runtime_error(operation + " failed: " + backend.error_text(error));
}

// Makes a device current while alive. Throws RuntimeError if it cannot.
class DeviceGuard {
 public:
  DeviceGuard(const Backend& backend, int device) : backend_(backend) {
    const int error = backend.enter(device);
    if (error != 0)
      fail(backend, error, "making device cuda:" + std::to_string(device) + " current");
  }
  ~DeviceGuard() { backend_.leave(); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  const Backend& backend_;
};

// Waits for the streams of the devices where that was chosen. Throws the first error, after all.
inline void wait_for(const Backend& backend, const std::vector<int>& devices,
                     const Streams& streams) {
  int first_error = 0;
  int where = 0;
  for (const int device : devices) {
    const Streams::Choice choice = streams.of(device);
    if (!choice.synchronize) continue;
    int error = backend.enter(device);
    if (error == 0) {
      error = backend.synchronize(choice.stream);
      backend.leave();
    }
    if (error == 0 || first_error != 0) continue;
    first_error = error;
    where = device;
  }
  if (first_error != 0) {
    fail(backend, first_error, "waiting for the work on cuda:" + std::to_string(where));
  }
}

// Queues work on the devices, by queue(backend), and waits for it where that was chosen. Throws
// RuntimeError with CUDA's error by name and number; what was queued before it is not undone.
template <class Queue>
void queue_and_wait(const std::vector<int>& devices, const Streams& streams, const Queue& queue) {
  if (devices.empty()) return;
  std::string reason;
  const Backend* const usable = backend(&reason);
  if (usable == nullptr) throw_runtime_error(reason);
  try {
    queue(*usable);
  } catch (const Error&) {
    // What was queued may still be at work on memory that the caller is about to give back. Of two
    // errors the first is told.
    try {
      wait_for(*usable, devices, streams);
    } catch (const Error&) {
    }
    throw;
  }
  wait_for(*usable, devices, streams);
}

// Queues one launch, with the device current. `tensors` of each row are written.
inline void launch_rows(const Backend& backend, const Kernel& kernel, const Rows& rows, int device,
                        int tensors, void* stream) {
  const Launcher run = rows.bytes() == kSmallArguments ? kernel.small : kernel.large;
  const int error = run(rows.arguments(), rows.chunks(), stream);
  if (error == 0) return;
  fail(backend, error,
       std::string("launching the ") + kernel.name + " kernel for " +
           std::to_string(rows.count() * tensors) + " tensors on cuda:" + std::to_string(device));
}

inline void add_device(std::vector<int>* devices, int device) {
  const bool known = std::find(devices->begin(), devices->end(), device) != devices->end();
  if (!known) devices->push_back(device);
}

}  // namespace swa_fast::cuda
