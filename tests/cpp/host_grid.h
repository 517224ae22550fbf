// A CUDA backend whose devices are the CPU: grids run block by block and thread by thread over the
// code that the GPU runs, and what was asked of the runtime is recorded.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "cuda/backend.h"
#include "cuda/combine_thread.h"
#include "cuda/gate.h"
#include "cuda/kernel_table.h"
#include "cuda/thread.h"
#include "fake_transfers.h"

namespace host_grid {

struct Launched {
  int device;
  void* stream;
  size_t arguments;  // bytes
  int rows;
  int tensors;  // that are written
  uint32_t blocks;
};

struct Record {
  std::vector<Launched> launches;
  std::vector<void*> waits;  // streams that were synchronised
  std::vector<int> entered;  // devices made current and not yet left
  int max_entered = 0;       // deepest nesting
  int fail_launch = -1;      // index of the launch that fails
  int fail_enter = 0;        // error of the next enter
  int fail_wait = 0;         // error of every wait
  bool only_note = false;    // launches touch no memory
};

inline Record record;

// Notes a launch; false if it fails.
inline bool note(void* stream, size_t arguments, int rows, int tensors, uint32_t blocks) {
  if (static_cast<int>(record.launches.size()) == record.fail_launch) return false;
  const int device = record.entered.empty() ? -1 : record.entered.back();
  record.launches.push_back({device, stream, arguments, rows, tensors, blocks});
  return true;
}

// Runs thread(block, thread) for every one of a grid.
template <class Thread>
void run_grid(uint32_t blocks, const Thread& run_thread) {
  if (record.only_note) return;
  for (uint32_t block = 0; block < blocks; ++block) {
    for (int thread = 0; thread < swa_fast::cuda::kThreads; ++thread) run_thread(block, thread);
  }
}

template <class Op, size_t kArguments>
struct Launch {
  static int run(const void* untyped, uint32_t blocks, void* stream) {
    // A copy, like the one that goes to a device.
    const auto table = *static_cast<const swa_fast::cuda::Table<kArguments>*>(untyped);
    const auto& header = table.header;
    if (!note(stream, kArguments, header.rows, header.rows * header.updates, blocks)) return 700;
    run_grid(blocks, [&](uint32_t block, int thread) {
      swa_fast::cuda::run_thread<Op>(table, block, thread);
    });
    return 0;
  }
};

template <class Dst, size_t kArguments>
struct SumLaunch {
  static int run(const void* untyped, uint32_t blocks, void* stream) {
    const auto table = *static_cast<const swa_fast::cuda::SumTable<kArguments>*>(untyped);
    if (!note(stream, kArguments, table.header.rows, table.header.rows, blocks)) return 700;
    run_grid(blocks, [&](uint32_t block, int thread) {
      swa_fast::cuda::run_sum_thread<Dst>(table, block, thread);
    });
    return 0;
  }
};

template <class Src, size_t kArguments>
struct CheckLaunch {
  static int run(const void* untyped, uint32_t blocks, void* stream) {
    const auto table = *static_cast<const swa_fast::cuda::Table<kArguments>*>(untyped);
    if (!note(stream, kArguments, table.header.rows, 0, blocks)) return 700;
    run_grid(blocks, [&](uint32_t block, int thread) {
      swa_fast::cuda::run_check_thread<Src>(table, block, thread);
    });
    return 0;
  }
};

inline int launch_count(const void* untyped, uint32_t blocks, void* stream) {
  const auto counting = *static_cast<const swa_fast::cuda::Counting*>(untyped);
  if (!note(stream, sizeof(counting), 0, 0, blocks)) return 700;
  run_grid(blocks,
           [&](uint32_t, int thread) { swa_fast::cuda::run_counting_thread(counting, thread); });
  return 0;
}

inline int enter(int device) {
  if (record.fail_enter != 0) return record.fail_enter;
  record.entered.push_back(device);
  record.max_entered = std::max(record.max_entered, static_cast<int>(record.entered.size()));
  return 0;
}
inline void leave() { record.entered.pop_back(); }
inline int synchronize(void* stream) {
  fake_transfers::make_copies();
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
  static const auto table = swa_fast::cuda::make_kernel_table<Launch, SumLaunch, CheckLaunch>(
      swa_fast::StorageTypes{}, launch_count);
  return table;
}

// While alive, CUDA devices are there, and a kernel takes so many bytes of arguments.
class Installed {
 public:
  explicit Installed(size_t arguments = swa_fast::cuda::kLargeArguments, bool batches = true)
      : backend_{&kernels(),  arguments,         enter,      leave,
                 synchronize, device_of_pointer, error_text, &transfers_},
        transfers_(fake_transfers::functions(batches)) {
    record = {};
    fake_transfers::journal = {};
    swa_fast::cuda::set_backend(&backend_);
  }
  ~Installed() { swa_fast::cuda::set_backend(nullptr); }
  Installed(const Installed&) = delete;
  Installed& operator=(const Installed&) = delete;

 private:
  swa_fast::cuda::Backend backend_;
  swa_fast::cuda::Transfers transfers_;
};

}  // namespace host_grid
