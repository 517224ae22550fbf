// The DLPack protocol in Python: __dlpack_device__, __dlpack__ and the capsules it returns.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "dlpack_import.h"

namespace swa_fast {

// Asks `item` for a capsule, consumes it and fills `buffer`. A tensor that is not in CPU memory is
// not exported: its buffer carries the device and nothing else.
std::unique_ptr<Export> import_dlpack(PyObject* item, const char* list, size_t index,
                                      Buffer* buffer);

}  // namespace swa_fast
