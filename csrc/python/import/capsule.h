// The DLPack protocol in Python: __dlpack_device__, __dlpack__ and the capsules it returns.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "python/import/list.h"

namespace swa_fast {

// How the producer of a CUDA tensor is to order what it has queued before what is queued here.
struct ExportStream {
  void* stream;              // whatever reads or writes the tensor is queued there
  bool was_ignored = false;  // out: the producer orders nothing but its default stream
};

// Asks `item` for a capsule, consumes it and fills `buffer`. Without `stream`, a tensor that is not
// in CPU memory is not exported: its buffer carries the device and nothing else.
std::unique_ptr<Export> import_dlpack(PyObject* item, const char* list, size_t index,
                                      ExportStream* stream, Buffer* buffer);

}  // namespace swa_fast
