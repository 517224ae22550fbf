// The CUDA runtime as the rest of the core sees it, or the reason why it cannot be used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/kernel.h"
#include "cuda/transfers.h"

namespace swa_fast::cuda {

// Functions on devices and streams; those that return int give a cudaError_t, 0 for success.
struct Backend {
  const KernelTable* kernels;
  size_t arguments;  // bytes that a kernel takes: kLargeArguments, or kSmallArguments

  // Makes the primary context of a device current for this thread, and undoes it. Nothing else
  // that this or another library set is changed. Every successful enter needs a leave.
  int (*enter)(int device);
  void (*leave)();
  int (*synchronize)(void* stream);
  // The device whose memory `pointer` is, or -1 for memory that no device owns.
  int (*device_of_pointer)(const void* pointer, int* device);
  // "cudaErrorIllegalAddress (700): an illegal memory access was encountered"
  std::string (*error_text)(int error);
  const Transfers* transfers;
};

// The legacy default stream (cudaStreamLegacy), which DLPack calls 1.
inline void* const kLegacyStream = reinterpret_cast<void*>(uintptr_t{1});

// What works here, or nullptr and, in `reason`, why nothing does and what to do. Asking initialises
// the driver, once, and is cheap from then on; asking again after a failure tries again.
const Backend* backend(std::string* reason);

// Puts another backend, or nullptr for the built one, in the place of backend()'s; for tests.
void set_backend(const Backend* replacement);

struct DeviceInfo {
  std::string name;
  std::string capability;  // "9.0"
  int64_t memory;          // bytes
};

struct Info {
  bool built;
  std::string toolkit;                     // "13.0"; "" if not built
  std::vector<std::string> architectures;  // "75", ..., "120", "120-virtual"
  std::string driver;                      // newest CUDA version that the driver knows, or ""
  std::vector<DeviceInfo> devices;
  int max_pairs;       // pairs of an average and its value per launch; 0 if nothing can run
  std::string reason;  // why nothing can run, or ""
};

Info info();

// What the two implementations provide: runtime.cu, or not_built.cc.
const Backend* built_backend(std::string* reason);
void describe(Info* info);

}  // namespace swa_fast::cuda
