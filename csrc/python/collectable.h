// Bound classes that hold Python objects, which Python's collector can free with whatever holds
// them: a model that holds its own averager.
#pragma once

#include <pybind11/pybind11.h>

namespace swa_fast {

// For py::custom_type_setup. `Bound` has traverse(visitproc, void*) and clear().
template <class Bound>
void make_collectable(PyHeapTypeObject* heap_type) {
  PyTypeObject* const type = &heap_type->ht_type;
  type->tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) -> int {
    Py_VISIT(Py_TYPE(self));
    if (!pybind11::detail::is_holder_constructed(self)) return 0;
    return pybind11::cast<Bound*>(pybind11::handle(self))->traverse(visit, arg);
  };
  type->tp_clear = [](PyObject* self) -> int {
    pybind11::cast<Bound*>(pybind11::handle(self))->clear();
    return 0;
  };
}

}  // namespace swa_fast
