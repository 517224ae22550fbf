// Looks for NaN and infinity in lists of tensors in the CPU's memory.
#pragma once

#include <vector>

#include "core/buffer.h"

namespace swa_fast::cpu {

// True if every floating-point element is finite; other elements are not looked at. Each buffer
// must be dense and on the CPU. Call it without the interpreter lock.
bool all_finite(const std::vector<Buffer>& buffers);

}  // namespace swa_fast::cpu
