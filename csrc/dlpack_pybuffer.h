// The buffer protocol (PEP 3118), for NumPy arrays and for types that have nothing better.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "dlpack_import.h"

namespace swa_fast {

// Fills `buffer` from the item's buffer. `numpy` also understands arrays of ml_dtypes.bfloat16,
// which the protocol has no letter for.
std::unique_ptr<Export> import_python_buffer(PyObject* item, bool numpy, const char* list,
                                             size_t index, Buffer* buffer);

}  // namespace swa_fast
