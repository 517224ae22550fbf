#include "python/import/torch.h"

#include "core/error.h"
#include "python/import/list.h"

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
    // What torch.autograd.graph.increment_version calls with a list; its own 180 ns are saved.
    increment_version = py::getattr(loaded_module("torch._C"), "_increment_version", py::none());
    if (increment_version.is_none()) {
      const py::object graph = py::module_::import("torch.autograd.graph");
      increment_version = py::getattr(graph, "increment_version", py::none());
    }
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
  const TorchFunctions& functions = torch_functions();
  const char* lazy = nullptr;
  if (answers_true(functions.is_neg, tensor)) lazy = "negative (call .resolve_neg() first)";
  if (buffer.dtype.code == kCodeComplex && answers_true(functions.is_conj, tensor)) {
    lazy = "conjugate (call .resolve_conj() first)";
  }
  if (lazy != nullptr) throw_buffer_error(item_name(list, index) + " is a lazy " + lazy);
}

void increment_versions(py::handle tensors) {
  const py::object& increment = torch_functions().increment_version;
  if (!increment.is_none()) increment(tensors);
}

}  // namespace swa_fast
