// The buffer protocol (PEP 3118), for types that have nothing better.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "python/import/list.h"

namespace swa_fast {

// Fills `buffer` from the item's buffer, which stays exported until the result is destroyed.
std::unique_ptr<Export> import_python_buffer(PyObject* item, const char* list, size_t index,
                                             Buffer* buffer);

}  // namespace swa_fast
