// Copies to host memory as the CUDA runtime makes them: streams, events, and the copies themselves.
#pragma once

#include <cstddef>

namespace swa_fast::cuda {

// What CUDA returns for a function that the driver does not support (cudaErrorNotSupported).
inline constexpr int kNotSupported = 801;

// Functions for the device that is current; those that return int give a cudaError_t, 0 for
// success.
struct Transfers {
  // A stream that waits for no other, and an event without a time; the host sleeps on it.
  int (*make_stream)(void** stream);
  int (*make_event)(void** event);
  void (*destroy)(void* stream, void* event);
  int (*record)(void* event, void* stream);
  int (*wait_on_device)(void* stream, void* event);
  int (*wait_on_host)(void* event);
  int (*is_capturing)(void* stream, bool* capturing);
  int (*copy)(void* to, const void* from, size_t bytes, void* stream);
  // `count` copies in one call, in no promised order; nullptr where the driver has no such call.
  int (*copy_batch)(void** to, void** from, size_t* bytes, size_t count, void* stream);
};

}  // namespace swa_fast::cuda
