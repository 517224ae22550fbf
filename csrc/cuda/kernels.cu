// The kernels. No tensor, no Python, no exception: a table of raw pointers and a stream.
#include <cuda_runtime.h>

#include "cuda/device_kernels.h"
#include "cuda/kernel_table.h"
#include "cuda/thread.h"

namespace swa_fast::cuda {
namespace {

template <class Op, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    pairs_kernel(const __grid_constant__ PairTable<kCapacity> table) {
  run_thread<Op>(table, blockIdx.x, static_cast<int>(threadIdx.x));
}

template <class Op, int kCapacity>
struct DeviceLaunch {
  static int run(const void* table, uint32_t blocks, void* stream) {
    pairs_kernel<Op, kCapacity><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        *static_cast<const PairTable<kCapacity>*>(table));
    return cudaGetLastError();
  }
};

}  // namespace

const KernelTable& device_kernels() {
  static const KernelTable table = make_kernel_table<DeviceLaunch>(StorageTypes{});
  return table;
}

}  // namespace swa_fast::cuda
