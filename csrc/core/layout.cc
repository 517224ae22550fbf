#include "core/layout.h"

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace swa_fast {
namespace {

bool is_row_major(const Buffer& buffer) {
  if (buffer.strides == nullptr) return true;
  int64_t expected = 1;
  for (int32_t axis = buffer.ndim - 1; axis >= 0; --axis) {
    const int64_t extent = buffer.shape[axis];
    if (extent == 1) continue;  // a stride that is never taken
    if (buffer.strides[axis] != expected) return false;
    expected *= extent;
  }
  return true;
}

// Python's spelling of a tuple: "()", "(3,)", "(2, 3)".
std::string tuple_text(const int64_t* items, int32_t count) {
  std::string text = "(";
  for (int32_t i = 0; i < count; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(items[i]);
  }
  return text + (count == 1 ? ",)" : ")");
}

std::vector<int64_t> row_major_strides(const Buffer& buffer) {
  std::vector<int64_t> strides(buffer.ndim);
  int64_t stride = 1;
  for (int32_t axis = buffer.ndim - 1; axis >= 0; --axis) {
    strides[axis] = stride;
    stride *= buffer.shape[axis];
  }
  return strides;
}

}  // namespace

int64_t count_elements(const int64_t* shape, int32_t ndim, const char* list, size_t index) {
  int64_t numel = 1;
  bool overflow = false;
  bool empty = false;
  for (int32_t axis = 0; axis < ndim; ++axis) {
    if (shape[axis] < 0) {
      throw_value_error(item_name(list, index) + " has a negative extent: shape " +
                        tuple_text(shape, ndim));
    }
    empty |= shape[axis] == 0;
    overflow |= __builtin_mul_overflow(numel, shape[axis], &numel);
  }
  if (empty) return 0;
  // 16 bytes is the widest element; the byte count must fit as well.
  if (overflow || numel > INT64_MAX / 16) {
    throw_value_error(item_name(list, index) + " has more elements than memory can hold: shape " +
                      tuple_text(shape, ndim));
  }
  return numel;
}

bool same_shape(const Buffer& a, const Buffer& b) {
  return a.ndim == b.ndim && std::equal(a.shape, a.shape + a.ndim, b.shape);
}

bool is_dense(const Buffer& buffer) {
  if (is_row_major(buffer)) return true;
  // Order the axes that are really walked from the smallest stride up; dense means that each
  // stride is the number of elements spanned by the axes below it.
  std::vector<int32_t> axes;
  for (int32_t axis = 0; axis < buffer.ndim; ++axis) {
    if (buffer.shape[axis] != 1) axes.push_back(axis);
  }
  std::sort(axes.begin(), axes.end(),
            [&](int32_t a, int32_t b) { return buffer.strides[a] < buffer.strides[b]; });
  int64_t expected = 1;
  for (const int32_t axis : axes) {
    if (buffer.strides[axis] != expected) return false;
    expected *= buffer.shape[axis];
  }
  return true;
}

bool same_dense_layout(const Buffer& a, const Buffer& b) {
  const bool a_row_major = is_row_major(a);
  const bool b_row_major = is_row_major(b);
  if (a_row_major && b_row_major) return true;
  if (a_row_major || b_row_major) return false;
  for (int32_t axis = 0; axis < a.ndim; ++axis) {
    if (a.shape[axis] != 1 && a.strides[axis] != b.strides[axis]) return false;
  }
  return is_dense(a);
}

std::string shape_text(const Buffer& buffer) { return tuple_text(buffer.shape, buffer.ndim); }

std::string strides_text(const Buffer& buffer) {
  if (buffer.strides != nullptr) return tuple_text(buffer.strides, buffer.ndim);
  return tuple_text(row_major_strides(buffer).data(), buffer.ndim);
}

}  // namespace swa_fast
