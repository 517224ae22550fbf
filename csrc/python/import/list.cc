#include "python/import/list.h"

#include "core/error.h"
#include "core/layout.h"
#include "python/import/capsule.h"
#include "python/import/numpy.h"
#include "python/import/pybuffer.h"
#include "python/import/route.h"
#include "python/import/torch.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

Device device_of(const dlpack::Device& device) {
  switch (device.device_type) {
    case dlpack::kCpuDevice:
    case dlpack::kCudaHostDevice:
    case dlpack::kRocmHostDevice:
      return {DeviceType::kCpu, 0, dlpack::kCpuDevice};
    case dlpack::kCudaDevice:
      return {DeviceType::kCuda, device.device_id, device.device_type};
    default:
      return {DeviceType::kOther, device.device_id, device.device_type};
  }
}

// A hint for objects that are near a tensor and easily mistaken for one.
std::string hint_for(PyObject* item) {
  const std::string type = type_name(item);
  if (type.find("Variable") != std::string::npos) {
    return ". A variable is no tensor: read it with .value(), and see swa_fast.tensorflow for "
           "averaging variables in place";
  }
  return "";
}

// torch refuses to export what requires a gradient.
py::object detached(PyObject* tensor, const char* list, size_t index) {
  try {
    return py::handle(tensor).attr("detach")();
  } catch (py::error_already_set& error) {
    raise_export_error(error, tensor, item_name(list, index));
  }
}

// How to make a list of a dict: without the integers and bools that a model's state may hold.
std::string values_of(py::handle dict) {
  for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(dict)) {
    const std::string dtype = py::str(py::getattr(value, "dtype", py::str()));
    if (dtype.find("int") != std::string::npos || dtype.find("bool") != std::string::npos) {
      return "the tensors of one kind: [t for t in d.values() if t.is_floating_point()] to "
             "average, "
             "the others to copy_ (" +
             py::repr(key).cast<std::string>() + " has dtype " + dtype + ")";
    }
  }
  return "list(d.values())";
}

py::tuple items_of(py::handle tensors, const char* name) {
  PyTypeObject* const type = Py_TYPE(tensors.ptr());
  if (PyList_CheckExact(tensors.ptr()) == 0 && PyTuple_CheckExact(tensors.ptr()) == 0) {
    if (route_of(type).kind != Route::kUnknown && PyBytes_Check(tensors.ptr()) == 0) {
      throw_type_error(std::string(name) + " must be a list of tensors. Received: a single " +
                       type_name(tensors.ptr()) + "; put it in a list, [" + name + "]");
    }
    if (PyDict_Check(tensors.ptr()) != 0) {
      throw_type_error(std::string(name) + " must be a list of tensors. Received: a dict; pass " +
                       values_of(tensors));
    }
    if (py::hasattr(tensors, "parameters")) {
      throw_type_error(std::string(name) + " must be a list of tensors. Received: a module, " +
                       type_name(tensors.ptr()) + "; pass list(module.parameters())");
    }
    if (PyAnySet_Check(tensors.ptr()) != 0 || PyUnicode_Check(tensors.ptr()) != 0 ||
        PyBytes_Check(tensors.ptr()) != 0 || py::isinstance<py::iterable>(tensors) == false) {
      throw_type_error(std::string(name) +
                       " must be a list of tensors. Received: " + type_name(tensors.ptr()));
    }
  }
  PyObject* const items = PySequence_Tuple(tensors.ptr());
  if (items == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::tuple>(items);
}

}  // namespace

std::string type_name(PyObject* object) {
  const py::handle type(reinterpret_cast<PyObject*>(Py_TYPE(object)));
  const auto name = py::str(type.attr("__qualname__")).cast<std::string>();
  const auto module = py::str(py::getattr(type, "__module__", py::str(""))).cast<std::string>();
  return module.empty() || module == "builtins" ? name : module + "." + name;
}

void raise_export_error(py::error_already_set& cause, PyObject* item, const std::string& name) {
  if (!cause.matches(PyExc_Exception)) throw cause;
  auto reason = py::str(cause.value()).cast<std::string>();
  reason = reason.substr(0, reason.find('\n'));  // torch appends a C++ stack; the cause keeps it
  const std::string message = name + " (" + type_name(item) + ") cannot be exported: " +
                              py::str(cause.type().attr("__name__")).cast<std::string>() + ": " +
                              reason;
  py::raise_from(cause, PyExc_BufferError, message.c_str());
  throw py::error_already_set();
}

bool look_at_exchange(PyObject* tensor, const dlpack::ExchangeApi& api, Buffer* buffer) {
  dlpack::Tensor view = {};
  if (api.dltensor_from_py_object_no_sync(tensor, &view) != 0) {
    PyErr_Clear();
    return false;
  }
  if (view.dtype.lanes != 1) return false;
  *buffer = {static_cast<char*>(view.data) + view.byte_offset,
             view.shape,
             view.strides,
             0,
             view.ndim,
             {view.dtype.code, view.dtype.bits},
             false,
             device_of(view.device)};
  return true;
}

void buffer_from_dlpack(const dlpack::Tensor& tensor, bool read_only, const char* list,
                        size_t index, Buffer* buffer) {
  if (tensor.dtype.lanes != 1 || tensor.dtype.bits == 0 || tensor.dtype.bits % 8 != 0 ||
      tensor.dtype.code == kCodeOpaque) {
    throw_type_error(item_name(list, index) + " has elements of DLPack type code " +
                     std::to_string(tensor.dtype.code) + ", " + std::to_string(tensor.dtype.bits) +
                     " bits, " + std::to_string(tensor.dtype.lanes) +
                     " lanes: whole numbers of bytes, one lane, are understood");
  }
  if (tensor.ndim < 0 || (tensor.ndim > 0 && tensor.shape == nullptr)) {
    throw_buffer_error(item_name(list, index) + " was exported without a valid shape");
  }
  buffer->shape = tensor.shape;
  buffer->strides = tensor.strides;
  buffer->ndim = tensor.ndim;
  buffer->numel = count_elements(tensor.shape, tensor.ndim, list, index);
  buffer->dtype = {tensor.dtype.code, tensor.dtype.bits};
  buffer->read_only = read_only;
  buffer->device = device_of(tensor.device);
  buffer->data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  if (tensor.data == nullptr && buffer->numel > 0) {
    throw_buffer_error(item_name(list, index) + " has a shape of " + shape_text(*buffer) +
                       " but no memory (a fake, meta or freed tensor)");
  }
}

ImportedList::ImportedList(py::handle tensors, const char* name)
    : name_(name), items_(items_of(tensors, name)), buffers_(items_.size()) {
  for (size_t i = 0; i < buffers_.size(); ++i) {
    import_item(PyTuple_GET_ITEM(items_.ptr(), static_cast<Py_ssize_t>(i)), i);
  }
}

void ImportedList::import_item(PyObject* item, size_t index) {
  const Route route = route_of(Py_TYPE(item));  // a copy: the calls below may look up others
  Buffer& buffer = buffers_[index];
  std::unique_ptr<Export> owner;
  switch (route.kind) {
    case Route::kExchange: {
      dlpack::Tensor tensor = {};
      if (route.api->dltensor_from_py_object_no_sync(item, &tensor) != 0) {
        py::error_already_set error;
        raise_export_error(error, item, item_name(name_, index));
      }
      buffer_from_dlpack(tensor, false, name_, index, &buffer);
      break;
    }
    case Route::kTorch:
      owner = import_dlpack(detached(item, name_, index).ptr(), name_, index, nullptr, &buffer);
      break;
    case Route::kTorchWrapper:
      throw_type_error(item_name(name_, index) + " is a " + type_name(item) +
                       ", a torch.Tensor subclass that does not hold its own memory: pass the "
                       "tensors it wraps");
    case Route::kNumpy:
      owner = import_numpy(item, name_, index, &buffer);
      break;
    case Route::kMasked:
      throw_type_error(item_name(name_, index) + " is a " + type_name(item) +
                       ", whose mask would be ignored: pass its memory, x.data, or x.filled()");
    case Route::kPythonBuffer:
      owner = import_python_buffer(item, name_, index, &buffer);
      break;
    case Route::kDlpack:
      owner = import_dlpack(item, name_, index, nullptr, &buffer);
      break;
    case Route::kUnknown:
      throw_type_error(item_name(name_, index) +
                       " must be a tensor that speaks DLPack or the "
                       "buffer protocol. Received: " +
                       type_name(item) + hint_for(item));
  }
  if (buffer.device.type == DeviceType::kCuda) {
    any_cuda_ = true;
    if (route.kind == Route::kTorch || route.kind == Route::kDlpack) {
      waiting_.push_back(index);
      return;
    }
  }
  finish(item, index, route, std::move(owner));
}

void ImportedList::export_waiting(size_t index, ExportStream* stream) {
  const Route route = route_of(Py_TYPE(item(index)));
  py::object exported = py::reinterpret_borrow<py::object>(item(index));
  if (route.kind == Route::kTorch) exported = detached(item(index), name_, index);
  const Device before = buffers_[index].device;
  auto owner = import_dlpack(exported.ptr(), name_, index, stream, &buffers_[index]);
  if (buffers_[index].device != before) {
    throw_buffer_error(item_name(name_, index) + " (a " + type_name(item(index)) +
                       ") says it is on " + device_name(before) + ", and was exported on " +
                       device_name(buffers_[index].device));
  }
  finish(item(index), index, route, std::move(owner));
}

void ImportedList::finish(PyObject* item, size_t index, const Route& route,
                          std::unique_ptr<Export> owner) {
  Buffer& buffer = buffers_[index];
  if (route.is_torch) refuse_lazy_bits(item, buffer, name_, index);
  buffer.read_only = buffer.read_only || route.immutable;
  any_torch_ = any_torch_ || route.is_torch;
  all_torch_ = all_torch_ && route.is_torch;
  if (owner != nullptr) exports_.push_back(std::move(owner));
}

void ImportedList::mark_written() const {
  if (!any_torch_) return;
  if (all_torch_) {
    increment_versions(items_);
    return;
  }
  py::list torch_tensors;
  for (const py::handle item : items_) {
    if (route_of(Py_TYPE(item.ptr())).is_torch) torch_tensors.append(item);
  }
  increment_versions(torch_tensors);
}

}  // namespace swa_fast
