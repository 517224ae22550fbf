// A tensor as the core sees it: memory, element type, shape, device. No Python, no DLPack.
#pragma once

#include <cstdint>
#include <string>

#include "core/dtype.h"

namespace swa_fast {

enum class DeviceType : int32_t { kCpu, kCuda, kOther };

struct Device {
  DeviceType type;
  int32_t index;
  int32_t dlpack_type;  // the number DLPack gave, for messages about kOther

  bool operator==(const Device& other) const {
    return type == other.type && index == other.index && dlpack_type == other.dlpack_type;
  }
  bool operator!=(const Device& other) const { return !(*this == other); }
};

inline std::string device_name(const Device& device) {
  switch (device.type) {
    case DeviceType::kCpu:
      return "cpu";
    case DeviceType::kCuda:
      return "cuda:" + std::to_string(device.index);
    default:
      return "DLPack device type " + std::to_string(device.dlpack_type) + ", index " +
             std::to_string(device.index);
  }
}

// Borrowed: whoever made the buffer keeps data, shape and strides alive while it is used.
struct Buffer {
  void* data;              // first element, byte offset applied
  const int64_t* shape;    // ndim extents
  const int64_t* strides;  // ndim strides in elements, or nullptr for row-major
  int64_t numel;           // product of the shape
  int32_t ndim;
  DType dtype;
  bool read_only;
  Device device;

  int64_t num_bytes() const { return numel * dtype.itemsize(); }
};

}  // namespace swa_fast
