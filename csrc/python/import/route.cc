#include "python/import/route.h"

#include <cstring>
#include <string>

#include "python/import/torch.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

const dlpack::ExchangeApi* exchange_api_of(py::handle type) {
  if (!py::hasattr(type, "__dlpack_c_exchange_api__")) return nullptr;
  const py::object capsule = type.attr("__dlpack_c_exchange_api__");
  if (!PyCapsule_IsValid(capsule.ptr(), dlpack::kExchangeApiCapsule)) return nullptr;
  auto* api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeApiCapsule));
  while (api != nullptr && api->version.major != dlpack::kMajorVersion) api = api->previous;
  if (api == nullptr || api->dltensor_from_py_object_no_sync == nullptr) return nullptr;
  return api;
}

// A subclass may keep its memory elsewhere than the type that published the table says, so only
// the publisher itself is trusted.
bool publishes_exchange_api(PyTypeObject* type) {
  const py::object own =
      py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(type)).attr("__dict__");
  return own.contains("__dlpack_c_exchange_api__");
}

std::string module_of(PyTypeObject* type) {
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  const py::object module = py::getattr(handle, "__module__", py::str(""));
  return py::isinstance<py::str>(module) ? module.cast<std::string>() : std::string();
}

bool has_prefix(const std::string& text, const char* prefix) {
  return text.compare(0, std::strlen(prefix), prefix) == 0;
}

bool is_subtype_of(PyTypeObject* type, const char* module, const char* name) {
  const py::object loaded = loaded_module(module);
  if (loaded.is_none()) return false;
  const py::object base = loaded.attr(name);
  return PyType_IsSubtype(type, reinterpret_cast<PyTypeObject*>(base.ptr())) != 0;
}

Route find_route(PyTypeObject* type) {
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  Route route;
  route.is_torch = is_torch_tensor(type);
  if (route.is_torch) {
    if (is_plain_torch_type(type)) {
      route.api = exchange_api_of(handle);
      route.kind = route.api != nullptr ? Route::kExchange : Route::kTorch;
    } else {
      route.kind = overrides_torch_dispatch(type) ? Route::kTorchWrapper : Route::kTorch;
    }
    return route;
  }
  if (is_subtype_of(type, "numpy", "ndarray")) {
    const bool masked = is_subtype_of(type, "numpy.ma", "MaskedArray");
    route.kind = masked ? Route::kMasked : Route::kNumpy;
    return route;
  }
  const std::string module = module_of(type);
  route.is_cupy = has_prefix(module, "cupy.") || module == "cupy";
  route.immutable = has_prefix(module, "jaxlib") || has_prefix(module, "jax.") || module == "jax";
  if (publishes_exchange_api(type)) route.api = exchange_api_of(handle);
  if (route.api != nullptr) {
    route.kind = Route::kExchange;
  } else if (py::hasattr(handle, "__dlpack__")) {
    route.kind = Route::kDlpack;
  } else if (type->tp_as_buffer != nullptr && type->tp_as_buffer->bf_getbuffer != nullptr) {
    route.kind = Route::kPythonBuffer;
  }
  return route;
}

struct CacheEntry {
  PyTypeObject* type = nullptr;  // a reference of its own, so that the address stays this type's
  Route route;
};

// As many types as a call plausibly mixes.
constexpr int kCacheSize = 4;
thread_local CacheEntry cache[kCacheSize];
thread_local int next_entry = 0;

}  // namespace

const Route& route_of(PyTypeObject* type) {
  for (const CacheEntry& entry : cache) {
    if (entry.type == type) return entry.route;
  }
  const Route route = find_route(type);
  CacheEntry& entry = cache[next_entry];
  next_entry = (next_entry + 1) % kCacheSize;
  PyTypeObject* const evicted = entry.type;
  Py_INCREF(reinterpret_cast<PyObject*>(type));
  entry = {type, route};
  Py_XDECREF(reinterpret_cast<PyObject*>(evicted));
  return entry.route;
}

}  // namespace swa_fast
