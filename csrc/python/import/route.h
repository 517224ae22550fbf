// Which way into a type's memory: looked up once per type.
#pragma once

#include <pybind11/pybind11.h>

#include "python/import/dlpack.h"

namespace swa_fast {

struct Route {
  enum Kind {
    kUnknown,       // not a tensor
    kExchange,      // DLPack's C exchange table
    kTorch,         // a torch tensor by its Python methods: old torch, or a harmless subclass
    kTorchWrapper,  // a torch subclass without memory of its own (FakeTensor, DTensor): refused
    kNumpy,         // NumPy's C structure
    kMasked,        // a NumPy array with a mask, which arithmetic on its memory ignores: refused
    kDlpack,        // __dlpack__
    kPythonBuffer,  // buffer protocol
  };
  Kind kind = kUnknown;
  bool is_torch = false;   // torch.Tensor or a subclass
  bool is_cupy = false;    // an array of CuPy
  bool immutable = false;  // the framework promises that contents never change (JAX)
  const dlpack::ExchangeApi* api = nullptr;
};

// The lock of the interpreter must be held. Remembers the last few types per thread; the reference
// holds until the next call from the same thread.
const Route& route_of(PyTypeObject* type);

}  // namespace swa_fast
