#include "dlpack_torch.h"

#include <cstdint>

#include "dlpack_import.h"
#include "error.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

// torch.Tensor, or None if torch is not (or not completely) imported.
py::object tensor_type() { return py::getattr(loaded_module("torch"), "Tensor", py::none()); }

// Looked up once: unbound methods and functions of torch, alive as long as the process.
struct TorchFunctions {
  py::object is_neg;
  py::object is_conj;
  py::object increment_version;

  TorchFunctions() {
    const py::object tensor = tensor_type();
    is_neg = tensor.attr("is_neg");
    is_conj = tensor.attr("is_conj");
    const py::object graph = py::module_::import("torch.autograd.graph");
    increment_version = py::getattr(graph, "increment_version", py::none());
  }
};

const TorchFunctions& torch_functions() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<TorchFunctions> storage;
  return storage.call_once_and_store_result([] { return TorchFunctions(); }).get_stored();
}

bool answers_true(const py::object& method, PyObject* tensor) {
  PyObject* const answer = PyObject_CallOneArg(method.ptr(), tensor);
  if (answer == nullptr) throw py::error_already_set();
  Py_DECREF(answer);
  return answer == Py_True;
}

// Tensors whose lazy bits were looked at and found clear. Asking torch costs as much as everything
// else done for a tensor, and training loops pass the same ones again and again. A slot holds a
// weak reference, so that an address reused by another tensor is not taken for the one seen. (The
// bits of a living tensor change only through torch's private _set_neg and _set_conj, or by giving
// its .data a lazy view of the same memory.)
class SeenTensors {
 public:
  bool contains(PyObject* tensor) const { return referent(slots_[slot_of(tensor)]) == tensor; }

  void add(PyObject* tensor) {
    PyObject* const reference = PyWeakref_NewRef(tensor, nullptr);
    if (reference == nullptr) throw py::error_already_set();
    PyObject*& slot = slots_[slot_of(tensor)];
    PyObject* const evicted = slot;
    slot = reference;
    Py_XDECREF(evicted);
  }

 private:
  // Room for the tensors of large models with few collisions; 128 KiB, touched only where used.
  static constexpr size_t kSlots = 1 << 14;

  static size_t slot_of(PyObject* tensor) {
    // Fibonacci hashing: the product's upper bits depend on all bits of the address.
    return (reinterpret_cast<uintptr_t>(tensor) * 0x9E3779B97F4A7C15u) >> (64 - 14);
  }

  // Only compared with an object that is alive, so a borrowed pointer will do.
  static PyObject* referent(PyObject* reference) {
    if (reference == nullptr) return nullptr;
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* object = nullptr;
    if (PyWeakref_GetRef(reference, &object) == 1) Py_DECREF(object);
    return object;
#else
    return PyWeakref_GET_OBJECT(reference);
#endif
  }

  PyObject* slots_[kSlots] = {};
};

#if !defined(Py_GIL_DISABLED)
// Guarded by the interpreter lock; without one, torch is asked every time.
SeenTensors seen_tensors;
#endif

}  // namespace

py::object loaded_module(const char* name) {
  PyObject* const modules = PyImport_GetModuleDict();
  PyObject* const module = PyDict_GetItemString(modules, name);
  return module == nullptr ? py::object(py::none()) : py::reinterpret_borrow<py::object>(module);
}

bool is_torch_tensor(PyTypeObject* type) {
  const py::object tensor = tensor_type();
  return !tensor.is_none() &&
         PyType_IsSubtype(type, reinterpret_cast<PyTypeObject*>(tensor.ptr())) != 0;
}

bool is_plain_torch_type(PyTypeObject* type) {
  const py::object parameter_module = loaded_module("torch.nn.parameter");
  const py::object parameter = py::getattr(parameter_module, "Parameter", py::none());
  PyObject* const object = reinterpret_cast<PyObject*>(type);
  return object == tensor_type().ptr() || object == parameter.ptr();
}

bool overrides_torch_dispatch(PyTypeObject* type) {
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  const py::object base = py::getattr(tensor_type(), "__torch_dispatch__", py::none());
  return !py::getattr(handle, "__torch_dispatch__", py::none()).is(base);
}

void refuse_lazy_bits(PyObject* tensor, const Buffer& buffer, const char* list, size_t index) {
#if !defined(Py_GIL_DISABLED)
  if (seen_tensors.contains(tensor)) return;
#endif
  const TorchFunctions& functions = torch_functions();
  const char* lazy = nullptr;
  if (answers_true(functions.is_neg, tensor)) lazy = "negative (call .resolve_neg() first)";
  if (buffer.dtype.code == kCodeComplex && answers_true(functions.is_conj, tensor)) {
    lazy = "conjugate (call .resolve_conj() first)";
  }
  if (lazy != nullptr) throw_buffer_error(item_name(list, index) + " is a lazy " + lazy);
#if !defined(Py_GIL_DISABLED)
  seen_tensors.add(tensor);
#endif
}

void increment_versions(py::handle tensors) {
  const py::object& increment = torch_functions().increment_version;
  if (!increment.is_none()) increment(tensors);
}

}  // namespace swa_fast
