// A CUDA backend whose devices are the CPU: grids run block by block and thread by thread over the
// code that the GPU runs, and what was asked of the runtime is recorded.
#pragma once

#include <string>
#include <vector>

#include "cuda/backend.h"
#include "cuda/kernel_table.h"
#include "cuda/table.h"
#include "cuda/thread.h"

namespace host_grid {

struct Launched {
  int device;
  void* stream;
  int capacity;
  int pairs;
  uint32_t blocks;
  int32_t chunk;
};

struct Record {
  std::vector<Launched> launches;
  std::vector<void*> waits;  // streams that were synchronised
  std::vector<int> entered;  // devices made current and not yet left
  int max_entered = 0;       // deepest nesting
  int fail_launch = -1;      // index of the launch that fails
  int fail_enter = 0;        // error of the next enter
  int fail_wait = 0;         // error of every wait
};

inline Record record;

template <class Op, int kCapacity>
struct Launch {
  static int run(const void* untyped, uint32_t blocks, void* stream) {
    const auto& table = *static_cast<const swa_fast::cuda::PairTable<kCapacity>*>(untyped);
    if (static_cast<int>(record.launches.size()) == record.fail_launch) return 700;
    const int device = record.entered.empty() ? -1 : record.entered.back();
    record.launches.push_back({device, stream, kCapacity, table.pairs, blocks, table.chunk});
    for (uint32_t block = 0; block < blocks; ++block) {
      for (int thread = 0; thread < swa_fast::cuda::kThreads; ++thread) {
        swa_fast::cuda::run_thread<Op>(table, block, thread);
      }
    }
    return 0;
  }
};

inline int enter(int device) {
  if (record.fail_enter != 0) return record.fail_enter;
  record.entered.push_back(device);
  record.max_entered = std::max(record.max_entered, static_cast<int>(record.entered.size()));
  return 0;
}
inline void leave() { record.entered.pop_back(); }
inline int synchronize(void* stream) {
  record.waits.push_back(stream);
  return record.fail_wait;
}
inline int device_of_pointer(const void*, int* device) {
  *device = record.entered.back();
  return 0;
}
inline std::string error_text(int error) {
  return "cudaErrorOfTests (" + std::to_string(error) + ")";
}

inline const swa_fast::cuda::KernelTable& kernels() {
  static const auto table = swa_fast::cuda::make_kernel_table<Launch>(swa_fast::StorageTypes{});
  return table;
}

// While alive, CUDA devices are there, and a launch takes `max_pairs` pairs.
class Installed {
 public:
  explicit Installed(int max_pairs = swa_fast::cuda::kLargeCapacity)
      : backend_{&kernels(), max_pairs, enter, leave, synchronize, device_of_pointer, error_text} {
    record = {};
    swa_fast::cuda::set_backend(&backend_);
  }
  ~Installed() { swa_fast::cuda::set_backend(nullptr); }
  Installed(const Installed&) = delete;
  Installed& operator=(const Installed&) = delete;

 private:
  swa_fast::cuda::Backend backend_;
};

}  // namespace host_grid
