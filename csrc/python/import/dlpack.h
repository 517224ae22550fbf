// The binary interface of DLPack 1.x, as far as it is used here: structures, numbers and names.
// Source: the DLPack specification, https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <cstddef>
#include <cstdint>

namespace swa_fast::dlpack {

inline constexpr uint32_t kMajorVersion = 1;

inline constexpr const char* kCapsule = "dltensor";
inline constexpr const char* kUsedCapsule = "used_dltensor";
inline constexpr const char* kVersionedCapsule = "dltensor_versioned";
inline constexpr const char* kUsedVersionedCapsule = "used_dltensor_versioned";
inline constexpr const char* kExchangeApiCapsule = "dlpack_exchange_api";

// Device types whose memory the CPU reads and writes, and CUDA's.
inline constexpr int32_t kCpuDevice = 1;
inline constexpr int32_t kCudaDevice = 2;
inline constexpr int32_t kCudaHostDevice = 3;   // pinned
inline constexpr int32_t kRocmHostDevice = 11;  // pinned

inline constexpr uint64_t kFlagReadOnly = 1;
inline constexpr uint64_t kFlagIsCopied = 2;

struct Device {
  int32_t device_type;
  int32_t device_id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; NULL for row-major
  uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* manager_ctx;
  void (*deleter)(ManagedTensor* self);
};

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct ManagedTensorVersioned {
  Version version;
  void* manager_ctx;
  void (*deleter)(ManagedTensorVersioned* self);
  uint64_t flags;
  Tensor tensor;
};

// Functions a tensor type publishes for exchange without Python calls (DLPack 1.3). Found as a
// capsule in the type's attribute __dlpack_c_exchange_api__.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;  // the same functions for an older major version, or NULL
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  // Fills `out` with borrowed pointers; 0, or -1 with a Python exception set. May be NULL.
  int (*dltensor_from_py_object_no_sync)(void* py_object, Tensor* out);
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** out_stream);
};

static_assert(sizeof(Tensor) == 48 && offsetof(Tensor, shape) == 24 &&
                  sizeof(ManagedTensorVersioned) == 80 && sizeof(ExchangeApi) == 56,
              "DLPack fixes these layouts");

}  // namespace swa_fast::dlpack
