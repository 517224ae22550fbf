#include "python/import/torch.h"

#include <unordered_map>
#include <vector>

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

#if !defined(Py_GIL_DISABLED)
// Tensors whose lazy bits were looked at and found clear. Asking torch costs as much as everything
// else done for a tensor, and training loops pass the same ones again and again. A tensor that dies
// is forgotten, so that an address reused by another is not taken for the one seen. (The bits of a
// living tensor change only through torch's private _set_neg and _set_conj, or by giving its .data
// a lazy view of the same memory.) Guarded by the interpreter lock.
class SeenTensors {
 public:
  // Lists come again in the order in which they came first, so the tensor after the last one found
  // is looked at first: a step through an array, which the processor foresees, where a search would
  // wait for memory that the weights have pushed out of the caches.
  bool contains(PyObject* tensor) {
    if (last_ + 1 < tensors_.size() && tensors_[last_ + 1] == tensor) {
      ++last_;
      return true;
    }
    const auto found = positions_.find(tensor);
    if (found == positions_.end()) return false;
    last_ = found->second;
    return true;
  }

  void add(PyObject* tensor) {
    if (tensors_.size() >= kMost) compact();
    if (tensors_.size() >= kMost) return;  // asked again every time
    const auto address = py::reinterpret_steal<py::object>(PyLong_FromVoidPtr(tensor));
    if (!address) throw py::error_already_set();
    static PyMethodDef forget = {"forget", &SeenTensors::forget, METH_O, nullptr};
    const auto callback =
        py::reinterpret_steal<py::object>(PyCFunction_New(&forget, address.ptr()));
    if (!callback) throw py::error_already_set();
    // A failure from here on leaves a gap at the end of the array, nothing else.
    const size_t position = tensors_.size();
    tensors_.push_back(nullptr);
    positions_.emplace(tensor, position);
    if (PyWeakref_NewRef(tensor, callback.ptr()) == nullptr) {  // kept until forget() runs
      positions_.erase(tensor);
      throw py::error_already_set();
    }
    tensors_[position] = tensor;
    last_ = position;
  }

 private:
  static constexpr size_t kMost = 1 << 16;

  static PyObject* forget(PyObject* address, PyObject* reference);

  void remove(const void* tensor) {
    const auto found = positions_.find(tensor);
    if (found == positions_.end()) return;
    tensors_[found->second] = nullptr;
    positions_.erase(found);
    if (positions_.empty()) tensors_.clear();
  }

  // Closes the gaps that dead tensors left.
  void compact() {
    size_t kept = 0;
    for (PyObject* const tensor : tensors_) {
      if (tensor == nullptr) continue;
      positions_[tensor] = kept;
      tensors_[kept++] = tensor;
    }
    tensors_.resize(kept);
    last_ = 0;
  }

  std::vector<PyObject*> tensors_;  // borrowed; null where one died
  std::unordered_map<const void*, size_t> positions_;
  size_t last_ = 0;
};

// Never destroyed: tensors die until the very end of the process.
SeenTensors& seen_tensors() {
  static SeenTensors& seen = *new SeenTensors;
  return seen;
}

PyObject* SeenTensors::forget(PyObject* address, PyObject* reference) {
  seen_tensors().remove(PyLong_AsVoidPtr(address));
  Py_DECREF(reference);
  Py_RETURN_NONE;
}
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
  if (seen_tensors().contains(tensor)) return;
#endif
  const TorchFunctions& functions = torch_functions();
  const char* lazy = nullptr;
  if (answers_true(functions.is_neg, tensor)) lazy = "negative (call .resolve_neg() first)";
  if (buffer.dtype.code == kCodeComplex && answers_true(functions.is_conj, tensor)) {
    lazy = "conjugate (call .resolve_conj() first)";
  }
  if (lazy != nullptr) throw_buffer_error(item_name(list, index) + " is a lazy " + lazy);
#if !defined(Py_GIL_DISABLED)
  seen_tensors().add(tensor);
#endif
}

void increment_versions(py::handle tensors) {
  const py::object& increment = torch_functions().increment_version;
  if (!increment.is_none()) increment(tensors);
}

}  // namespace swa_fast
