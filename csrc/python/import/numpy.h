// NumPy arrays by their C structure: a few nanoseconds each, where NumPy's own exports allocate.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "python/import/list.h"

namespace swa_fast {

// Fills `buffer` from an instance of numpy.ndarray. Understands arrays of ml_dtypes.bfloat16, which
// neither the buffer protocol nor NumPy's DLPack export has a code for. Returns what has to be
// kept, or nullptr.
std::unique_ptr<Export> import_numpy(PyObject* item, const char* list, size_t index,
                                     Buffer* buffer);

}  // namespace swa_fast
