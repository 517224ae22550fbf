// The kernels. No tensor, no Python, no exception: a table of raw pointers and a stream.
#include <cuda_runtime.h>

#include "cuda/combine_thread.h"
#include "cuda/device_kernels.h"
#include "cuda/gate.h"
#include "cuda/kernel_table.h"
#include "cuda/thread.h"

namespace swa_fast::cuda {
namespace {

template <class Op, size_t kArguments>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(const __grid_constant__ Table<kArguments> table) {
  run_thread<Op>(table, blockIdx.x, static_cast<int>(threadIdx.x));
}

template <class Op, size_t kArguments>
struct DeviceLaunch {
  static int run(const void* table, uint32_t blocks, void* stream) {
    rows_kernel<Op, kArguments><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        *static_cast<const Table<kArguments>*>(table));
    return cudaGetLastError();
  }
};

template <class Dst, size_t kArguments>
__global__ void __launch_bounds__(kThreads)
    sum_kernel(const __grid_constant__ SumTable<kArguments> table) {
  run_sum_thread<Dst>(table, blockIdx.x, static_cast<int>(threadIdx.x));
}

template <class Dst, size_t kArguments>
struct DeviceSumLaunch {
  static int run(const void* table, uint32_t blocks, void* stream) {
    sum_kernel<Dst, kArguments><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        *static_cast<const SumTable<kArguments>*>(table));
    return cudaGetLastError();
  }
};

template <class Src, size_t kArguments>
__global__ void __launch_bounds__(kThreads)
    check_kernel(const __grid_constant__ Table<kArguments> table) {
  run_check_thread<Src>(table, blockIdx.x, static_cast<int>(threadIdx.x));
}

template <class Src, size_t kArguments>
struct DeviceCheckLaunch {
  static int run(const void* table, uint32_t blocks, void* stream) {
    check_kernel<Src, kArguments><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        *static_cast<const Table<kArguments>*>(table));
    return cudaGetLastError();
  }
};

__global__ void count_kernel(const Counting counting) {
  run_counting_thread(counting, static_cast<int>(threadIdx.x));
}

int launch_count(const void* counting, uint32_t blocks, void* stream) {
  count_kernel<<<blocks, 1, 0, static_cast<cudaStream_t>(stream)>>>(
      *static_cast<const Counting*>(counting));
  return cudaGetLastError();
}

}  // namespace

const KernelTable& device_kernels() {
  static const KernelTable table =
      make_kernel_table<DeviceLaunch, DeviceSumLaunch, DeviceCheckLaunch>(StorageTypes{},
                                                                          launch_count);
  return table;
}

}  // namespace swa_fast::cuda
