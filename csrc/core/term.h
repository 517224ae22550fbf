// A source of one output of a weighted sum.
#pragma once

#include "core/dtype.h"

namespace swa_fast {

struct Term {
  const char* data;
  StorageType storage;
};

}  // namespace swa_fast
