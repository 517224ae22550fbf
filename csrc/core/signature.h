// What a list of tensors was when a plan was prepared for it, to be compared with what it is now.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/buffer.h"

namespace swa_fast {

class Signature {
 public:
  size_t size() const { return items_.size(); }

  void reserve(size_t count) { items_.reserve(count); }

  void add(const Buffer& buffer) {
    items_.push_back({buffer.data, buffer.dtype, buffer.ndim, buffer.strides != nullptr,
                      buffer.device, static_cast<uint32_t>(extents_.size())});
    extents_.insert(extents_.end(), buffer.shape, buffer.shape + buffer.ndim);
    if (buffer.strides != nullptr) {
      extents_.insert(extents_.end(), buffer.strides, buffer.strides + buffer.ndim);
    }
  }

  // True if item `index` was `buffer`, wherever in memory. Strides given in one case and not in the
  // other count as another layout, though they may be the same: then a plan is made anew.
  bool is_alike(size_t index, const Buffer& buffer) const {
    const Item& item = items_[index];
    const bool strided = buffer.strides != nullptr;
    if (item.dtype != buffer.dtype || item.ndim != buffer.ndim || item.strided != strided ||
        item.device != buffer.device) {
      return false;
    }
    const int64_t* const extents = extents_.data() + item.extents;
    return std::equal(buffer.shape, buffer.shape + buffer.ndim, extents) &&
           (!strided ||
            std::equal(buffer.strides, buffer.strides + buffer.ndim, extents + buffer.ndim));
  }

  // True if item `index` was `buffer`, at the same address.
  bool is_same(size_t index, const Buffer& buffer) const {
    return items_[index].data == buffer.data && is_alike(index, buffer);
  }

  void* data(size_t index) const { return items_[index].data; }
  void move(size_t index, void* data) { items_[index].data = data; }

 private:
  struct Item {
    void* data;
    DType dtype;
    int32_t ndim;
    bool strided;
    Device device;
    uint32_t extents;  // where in extents_ the shape begins; the strides follow
  };
  std::vector<Item> items_;
  std::vector<int64_t> extents_;
};

}  // namespace swa_fast
