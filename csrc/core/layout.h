// Shapes and strides: when two tensors are the same dense arrangement of elements.
#pragma once

#include <cstdint>
#include <string>

#include "core/buffer.h"

namespace swa_fast {

// Product of the extents. Throws ValueError naming `list[index]` if one is negative or if the
// product overflows.
int64_t count_elements(const int64_t* shape, int32_t ndim, const char* list, size_t index);

bool same_shape(const Buffer& a, const Buffer& b);

// True if both have the same shape and their k-th elements in memory order correspond: both
// row-major, or the same strides that visit a solid block of memory once (channels_last,
// Fortran order). `same_shape(a, b)` must hold.
bool same_dense_layout(const Buffer& a, const Buffer& b);

// True if the strides visit a solid block of memory, each element once, in whatever axis order.
bool is_dense(const Buffer& buffer);

std::string shape_text(const Buffer& buffer);    // "(2, 3)"
std::string strides_text(const Buffer& buffer);  // "(3, 1)", in elements

}  // namespace swa_fast
