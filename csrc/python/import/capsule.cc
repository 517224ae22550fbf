#include "python/import/capsule.h"

#include <string>

#include "core/error.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

// A consumed capsule's tensor; its producer's deleter is called once, at the end.
template <class Managed>
class ManagedExport : public Export {
 public:
  explicit ManagedExport(Managed* managed) : managed_(managed) {}
  ~ManagedExport() override {
    if (managed_->deleter != nullptr) managed_->deleter(managed_);
  }
  Managed* get() const { return managed_; }

 private:
  Managed* managed_;
};

template <class Managed>
std::unique_ptr<ManagedExport<Managed>> consume(PyObject* capsule, const char* name,
                                                const char* used_name) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  if (managed == nullptr || PyCapsule_SetName(capsule, used_name) != 0) {
    throw py::error_already_set();
  }
  return std::make_unique<ManagedExport<Managed>>(managed);
}

// True if the tensor is in memory that the CPU reads; else `buffer` holds its device.
bool in_cpu_memory(PyObject* item, const char* list, size_t index, Buffer* buffer) {
  const py::handle handle(item);
  if (!py::hasattr(handle, "__dlpack_device__")) return true;  // the capsule will tell
  const py::object device = handle.attr("__dlpack_device__")();
  dlpack::Tensor tensor = {};
  try {
    const auto pair = py::tuple(device);
    if (pair.size() != 2) throw py::cast_error();
    tensor.device = {pair[0].cast<int32_t>(), pair[1].cast<int32_t>()};
  } catch (const py::cast_error&) {
    throw_buffer_error(item_name(list, index) + ": __dlpack_device__ of " + type_name(item) +
                       " must return two ints, device type and number. Received: " +
                       py::repr(device).cast<std::string>());
  }
  tensor.dtype = {kCodeFloat, 32, 1};
  const int32_t type = tensor.device.device_type;
  if (type == dlpack::kCpuDevice || type == dlpack::kCudaHostDevice ||
      type == dlpack::kRocmHostDevice) {
    return true;
  }
  static int64_t no_elements[] = {0};
  tensor.ndim = 1;
  tensor.shape = no_elements;
  buffer_from_dlpack(tensor, false, "", 0, buffer);
  return false;
}

py::object request_capsule(PyObject* item) {
  const py::object method = py::handle(item).attr("__dlpack__");
  try {
    return method(py::arg("max_version") = py::make_tuple(dlpack::kMajorVersion, 1));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;  // TypeError: an older protocol
  }
  return method();
}

// DLPack's number of a CUDA stream: 1 for the legacy default stream, which CUDA calls 0 or 1.
uintptr_t stream_number(void* stream) {
  const auto number = reinterpret_cast<uintptr_t>(stream);
  return number == 0 ? 1 : number;
}

py::object request_capsule_on(PyObject* item, ExportStream* stream) {
  const py::object method = py::handle(item).attr("__dlpack__");
  const py::int_ number(stream_number(stream->stream));
  const py::tuple version = py::make_tuple(dlpack::kMajorVersion, 1);
  for (const bool versioned : {true, false}) {
    try {
      if (!versioned) return method(py::arg("stream") = number);
      return method(py::arg("stream") = number, py::arg("max_version") = version);
    } catch (py::error_already_set& error) {
      // TypeError: an older protocol. RuntimeError: TensorFlow, which takes no stream.
      if (!error.matches(PyExc_TypeError) && !error.matches(PyExc_RuntimeError)) throw;
    }
  }
  stream->was_ignored = true;
  return request_capsule(item);
}

}  // namespace

std::unique_ptr<Export> import_dlpack(PyObject* item, const char* list, size_t index,
                                      ExportStream* stream, Buffer* buffer) {
  py::object capsule;
  try {
    if (stream == nullptr && !in_cpu_memory(item, list, index, buffer)) return nullptr;
    capsule = stream == nullptr ? request_capsule(item) : request_capsule_on(item, stream);
  } catch (py::error_already_set& error) {
    raise_export_error(error, item, item_name(list, index));
  }
  if (PyCapsule_IsValid(capsule.ptr(), dlpack::kVersionedCapsule)) {
    auto owner = consume<dlpack::ManagedTensorVersioned>(capsule.ptr(), dlpack::kVersionedCapsule,
                                                         dlpack::kUsedVersionedCapsule);
    const dlpack::ManagedTensorVersioned& managed = *owner->get();
    if (managed.version.major != dlpack::kMajorVersion) {
      throw_buffer_error(item_name(list, index) + " was exported as DLPack version " +
                         std::to_string(managed.version.major) + ", and version 1 is understood");
    }
    // A copy made for the export would take the write and be thrown away.
    const uint64_t not_writable = dlpack::kFlagReadOnly | dlpack::kFlagIsCopied;
    buffer_from_dlpack(managed.tensor, (managed.flags & not_writable) != 0, list, index, buffer);
    return owner;
  }
  if (PyCapsule_IsValid(capsule.ptr(), dlpack::kCapsule)) {
    auto owner =
        consume<dlpack::ManagedTensor>(capsule.ptr(), dlpack::kCapsule, dlpack::kUsedCapsule);
    buffer_from_dlpack(owner->get()->tensor, false, list, index, buffer);
    return owner;
  }
  const bool consumed = PyCapsule_IsValid(capsule.ptr(), dlpack::kUsedCapsule) ||
                        PyCapsule_IsValid(capsule.ptr(), dlpack::kUsedVersionedCapsule);
  throw_buffer_error(item_name(list, index) + ": __dlpack__ of " + type_name(item) +
                     (consumed ? " returned a capsule that was consumed before"
                               : " returned no DLPack capsule but a " + type_name(capsule.ptr())));
}

}  // namespace swa_fast
