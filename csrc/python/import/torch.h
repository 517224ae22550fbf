// What torch tensors need beyond DLPack. torch is never imported here: it is looked up among the
// modules already loaded.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "core/buffer.h"

namespace swa_fast {

// sys.modules[name], or None.
pybind11::object loaded_module(const char* name);

bool is_torch_tensor(PyTypeObject* type);           // torch.Tensor or a subclass
bool is_plain_torch_type(PyTypeObject* type);       // exactly torch.Tensor or torch.nn.Parameter
bool overrides_torch_dispatch(PyTypeObject* type);  // has its own __torch_dispatch__

// Throws BufferError if the tensor is a lazy conjugate or negative: its memory then holds other
// numbers than the tensor shows, which DLPack cannot say.
void refuse_lazy_bits(PyObject* tensor, const Buffer& buffer, const char* list, size_t index);

// Adds one to the version counters, so that autograd notices writes to tensors it saved.
void increment_versions(pybind11::handle tensors);

}  // namespace swa_fast
