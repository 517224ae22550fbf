// The CUDA runtime behind Backend. Linked statically; the driver is looked up when first needed, so
// that the module loads where there is none.
#include <cuda.h>
#include <cuda_runtime.h>

#include <array>
#include <mutex>
#include <sstream>

#include "cuda/backend.h"
#include "cuda/device_kernels.h"
#include "cuda/table.h"

#ifndef SWA_FAST_CUDA_ARCHITECTURES
#define SWA_FAST_CUDA_ARCHITECTURES ""
#endif

namespace swa_fast::cuda {
namespace {

// Contexts of devices beyond this number are not remembered but refused.
constexpr int kMaxDevices = 64;

// Arguments of 32,764 bytes: the driver of CUDA 12.1, which is 530.
constexpr int kLargeArgumentsDriver = 12010;
constexpr bool kLargeArgumentsBuilt = CUDART_VERSION >= 12010;

// The few driver functions used. A library linked with another copy of the CUDA runtime (torch)
// keeps its own idea of the current device, so contexts are pushed and popped in the driver itself:
// the runtime works in the context that is current, and everyone else finds what they left.
struct Driver {
  CUresult (*push)(CUcontext) = nullptr;
  CUresult (*pop)(CUcontext*) = nullptr;
  CUresult (*retain)(CUcontext*, CUdevice) = nullptr;
  bool complete = false;
};

template <class Function>
bool find_function(const char* name, Function* function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &address, 11000, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found);
#endif
  *function = reinterpret_cast<Function>(address);
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess && address != nullptr;
}

const Driver& driver() {
  static const Driver functions = [] {
    Driver d;
    d.complete = find_function("cuCtxPushCurrent", &d.push) &&
                 find_function("cuCtxPopCurrent", &d.pop) &&
                 find_function("cuDevicePrimaryCtxRetain", &d.retain);
    return d;
  }();
  return functions;
}

// The primary context of a device, retained once and for the life of the process. The numbers of
// the errors that driver and runtime can both return are the same.
int primary_context(int device, CUcontext* context) {
  static std::array<CUcontext, kMaxDevices> contexts = {};
  static std::mutex mutex;
  if (device < 0 || device >= kMaxDevices) return cudaErrorInvalidDevice;
  const std::lock_guard<std::mutex> lock(mutex);
  if (contexts[device] == nullptr) {
    CUcontext retained = nullptr;
    const CUresult error = driver().retain(&retained, device);
    if (error != CUDA_SUCCESS) return static_cast<int>(error);
    contexts[device] = retained;
  }
  *context = contexts[device];
  return cudaSuccess;
}

int enter(int device) {
  CUcontext context = nullptr;
  const int error = primary_context(device, &context);
  if (error != cudaSuccess) return error;
  return static_cast<int>(driver().push(context));
}

void leave() {
  CUcontext ours = nullptr;
  driver().pop(&ours);
}

int synchronize(void* stream) {
  const cudaError_t error = cudaStreamSynchronize(static_cast<cudaStream_t>(stream));
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

int device_of_pointer(const void* pointer, int* device) {
  cudaPointerAttributes attributes = {};
  const cudaError_t error = cudaPointerGetAttributes(&attributes, pointer);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return error;
  }
  const bool owned =
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  *device = owned ? attributes.device : -1;
  return cudaSuccess;
}

std::string error_text(int error) {
  const auto code = static_cast<cudaError_t>(error);
  return std::string(cudaGetErrorName(code)) + " (" + std::to_string(error) +
         "): " + cudaGetErrorString(code);
}

// cuMemcpyBatchAsync as it is from CUDA 12.8 on; later versions have another form of it under
// another version number.
#if CUDART_VERSION >= 12080
using CopyBatch = CUresult (*)(CUdeviceptr* to, CUdeviceptr* from, size_t* bytes, size_t count,
                               CUmemcpyAttributes* attributes, size_t* first_of_attributes,
                               size_t attributes_count, size_t* failed, CUstream stream);

CopyBatch copy_batch_function() {
  static const CopyBatch function = [] {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuMemcpyBatchAsync", &address,
                                                               12080, cudaEnableDefault, &found);
    if (error != cudaSuccess) cudaGetLastError();
    const bool usable = error == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return usable ? reinterpret_cast<CopyBatch>(address) : nullptr;
  }();
  return function;
}

int copy_batch(void** to, void** from, size_t* bytes, size_t count, void* stream) {
  // In the order of the stream: what was queued before is done, and what comes later waits.
  CUmemcpyAttributes attributes = {};
  attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  size_t first = 0;
  size_t failed = 0;
  static_assert(sizeof(CUdeviceptr) == sizeof(void*), "both are addresses");
  return static_cast<int>(copy_batch_function()(
      reinterpret_cast<CUdeviceptr*>(to), reinterpret_cast<CUdeviceptr*>(from), bytes, count,
      &attributes, &first, 1, &failed, static_cast<CUstream>(stream)));
}
#endif

// Gives an error back, and leaves none behind for whoever asks CUDA next.
int returned(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

int make_stream(void** stream) {
  return returned(
      cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(stream), cudaStreamNonBlocking));
}

int make_event(void** event) {
  return returned(cudaEventCreateWithFlags(reinterpret_cast<cudaEvent_t*>(event),
                                           cudaEventDisableTiming | cudaEventBlockingSync));
}

void destroy(void* stream, void* event) {
  if (event != nullptr) returned(cudaEventDestroy(static_cast<cudaEvent_t>(event)));
  returned(cudaStreamDestroy(static_cast<cudaStream_t>(stream)));
}

int record(void* event, void* stream) {
  return returned(
      cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)));
}

int wait_on_device(void* stream, void* event) {
  return returned(
      cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0));
}

int wait_on_host(void* event) {
  return returned(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
}

int is_capturing(void* stream, bool* capturing) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status);
  *capturing = status != cudaStreamCaptureStatusNone;
  return returned(error);
}

int copy(void* to, const void* from, size_t bytes, void* stream) {
  return returned(
      cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, static_cast<cudaStream_t>(stream)));
}

const Transfers& transfers() {
  static const Transfers functions = [] {
    Transfers all = {make_stream,  make_event,   destroy, record, wait_on_device,
                     wait_on_host, is_capturing, copy,    nullptr};
#if CUDART_VERSION >= 12080
    if (copy_batch_function() != nullptr) all.copy_batch = copy_batch;
#endif
    return all;
  }();
  return functions;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// 0 where there is no driver.
int driver_version() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return version;
}

std::string reason_for(int error) {
  const int version = driver_version();
  if (error == cudaErrorInsufficientDriver && version == 0) {
    return "no NVIDIA driver was found: install one, or move the tensors to the CPU";
  }
  if (error == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver knows CUDA up to " + version_text(version) +
           ", and this build of swa_fast needs " + version_text(CUDART_VERSION) +
           ": install a newer driver, or build swa_fast with an older toolkit, or move the tensors "
           "to the CPU";
  }
  if (error == cudaErrorNoDevice) {
    return "there is an NVIDIA driver but no GPU for this process: see nvidia-smi, and the "
           "environment variable CUDA_VISIBLE_DEVICES, or move the tensors to the CPU";
  }
  return "CUDA does not start: cudaGetDeviceCount returned " + error_text(error) +
         (error == cudaErrorInitializationError
              ? "; in a forked child of a process that used CUDA it cannot: start the child with "
                "the spawn method"
              : "");
}

}  // namespace

const Backend* built_backend(std::string* reason) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    cudaGetLastError();
    *reason = reason_for(error != cudaSuccess ? error : cudaErrorNoDevice);
    return nullptr;
  }
  if (!driver().complete) {
    *reason = "the NVIDIA driver lacks functions that CUDA 11 has: install a newer one";
    return nullptr;
  }
  static const Backend usable = {&device_kernels(),
                                 kLargeArgumentsBuilt && driver_version() >= kLargeArgumentsDriver
                                     ? kLargeArguments
                                     : kSmallArguments,
                                 enter,
                                 leave,
                                 synchronize,
                                 device_of_pointer,
                                 error_text,
                                 &transfers()};
  return &usable;
}

void describe(Info* info) {
  info->built = true;
  info->toolkit = version_text(CUDART_VERSION);
  std::istringstream architectures(SWA_FAST_CUDA_ARCHITECTURES);
  for (std::string one; std::getline(architectures, one, ',');) {
    info->architectures.push_back(one);
  }
  const int version = driver_version();
  if (version > 0) info->driver = version_text(version);
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess) {
    cudaGetLastError();
    return;
  }
  for (int device = 0; device < devices; ++device) {
    cudaDeviceProp properties = {};
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    info->devices.push_back(
        {properties.name, std::to_string(properties.major) + "." + std::to_string(properties.minor),
         static_cast<int64_t>(properties.totalGlobalMem)});
  }
}

}  // namespace swa_fast::cuda
