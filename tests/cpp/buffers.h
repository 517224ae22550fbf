// Tensors with memory of their own, for tests of what works on Buffers.
#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/buffer.h"
#include "core/dtype.h"
#include "core/layout.h"

inline constexpr swa_fast::DType kFloat64 = {swa_fast::kCodeFloat, 64};
inline constexpr swa_fast::DType kFloat32 = {swa_fast::kCodeFloat, 32};
inline constexpr swa_fast::DType kFloat16 = {swa_fast::kCodeFloat, 16};
inline constexpr swa_fast::DType kBFloat16 = {swa_fast::kCodeBFloat, 16};
inline constexpr swa_fast::DType kInt32 = {swa_fast::kCodeInt, 32};
inline constexpr swa_fast::DType kBool = {swa_fast::kCodeBool, 8};
inline constexpr swa_fast::DType kComplex64 = {swa_fast::kCodeComplex, 64};
inline constexpr swa_fast::DType kComplex128 = {swa_fast::kCodeComplex, 128};

inline constexpr swa_fast::Device kCpuDevice = {swa_fast::DeviceType::kCpu, 0, 1};

using Extents = std::vector<int64_t>;

// A shape and strides that a Buffer can point to; without strides, row-major.
struct Layout {
  Extents shape;
  Extents strides;
  bool has_strides = false;

  explicit Layout(Extents extents) : shape(std::move(extents)) {}
  Layout(Extents extents, Extents steps)
      : shape(std::move(extents)), strides(std::move(steps)), has_strides(true) {}

  swa_fast::Buffer buffer(void* data = nullptr, swa_fast::DType dtype = kFloat32) const {
    const auto ndim = static_cast<int32_t>(shape.size());
    int64_t numel = 1;
    for (const int64_t extent : shape) numel *= extent;
    return {data,  shape.data(), has_strides ? strides.data() : nullptr, numel, ndim, dtype,
            false, kCpuDevice};
  }
};

// A tensor of zeros, or of the given elements.
struct Tensor {
  swa_fast::DType dtype;
  Layout layout;
  std::vector<unsigned char> memory;
  bool read_only = false;
  swa_fast::Device device = kCpuDevice;

  Tensor(swa_fast::DType type, Layout arrangement)
      : dtype(type),
        layout(std::move(arrangement)),
        memory(static_cast<size_t>(layout.buffer().numel * type.itemsize())) {}

  template <class T>
  Tensor(swa_fast::DType type, const std::vector<T>& elements)
      : Tensor(type,
               Layout({static_cast<int64_t>(elements.size() * sizeof(T)) / type.itemsize()})) {
    if (!memory.empty()) std::memcpy(memory.data(), elements.data(), memory.size());
  }

  swa_fast::Buffer buffer() {
    swa_fast::Buffer made = layout.buffer(memory.data(), dtype);
    made.read_only = read_only;
    made.device = device;
    return made;
  }

  template <class T>
  std::vector<T> elements() const {
    std::vector<T> all(memory.size() / sizeof(T));
    if (!memory.empty()) std::memcpy(all.data(), memory.data(), memory.size());
    return all;
  }
};

inline std::vector<swa_fast::Buffer> buffers_of(std::vector<Tensor>& tensors) {
  std::vector<swa_fast::Buffer> all;
  for (Tensor& tensor : tensors) all.push_back(tensor.buffer());
  return all;
}
