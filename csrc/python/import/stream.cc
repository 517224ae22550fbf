#include "python/import/stream.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "python/import/capsule.h"
#include "python/import/route.h"
#include "python/import/torch.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

Owner owner_of(const Route& route) {
  if (route.is_torch) return {Owner::kTorch, route.api};
  if (route.api != nullptr) return {Owner::kExchangeApi, route.api};
  return {route.is_cupy ? Owner::kCupy : Owner::kNobody, nullptr};
}

void* stream_from_python(const py::object& stream, const char* attribute) {
  return reinterpret_cast<void*>(stream.attr(attribute).cast<uintptr_t>());
}

void* current_stream(const Owner& owner, int device) {
  if (owner.api != nullptr && owner.api->current_work_stream != nullptr) {
    void* stream = nullptr;
    if (owner.api->current_work_stream(dlpack::kCudaDevice, device, &stream) != 0) {
      throw py::error_already_set();
    }
    return stream;
  }
  if (owner.kind == Owner::kTorch) {
    const py::object cuda = loaded_module("torch").attr("cuda");
    return stream_from_python(cuda.attr("current_stream")(device), "cuda_stream");
  }
  if (owner.kind == Owner::kCupy) {
    // The current stream belongs to the current device.
    const py::object cuda = loaded_module("cupy").attr("cuda");
    const py::object guard = cuda.attr("Device")(device);
    guard.attr("__enter__")();
    const py::object stream = cuda.attr("get_current_stream")();
    guard.attr("__exit__")(py::none(), py::none(), py::none());
    return stream_from_python(stream, "ptr");
  }
  return cuda::kLegacyStream;
}

[[noreturn]] void fail(const cuda::Backend& backend, int error, const std::string& operation) {
  throw_runtime_error(operation + " failed: " + backend.error_text(error));
}

// Runs `query` with a device current.
template <class Query>
int on_device(const cuda::Backend& backend, int device, const Query& query) {
  const int entered = backend.enter(device);
  if (entered != 0) return entered;
  const int error = query();
  backend.leave();
  return error;
}

void wait_for(const cuda::Backend& backend, int device, void* stream) {
  const int error = on_device(backend, device, [&] {
    const py::gil_scoped_release unlocked;
    return backend.synchronize(stream);
  });
  if (error != 0)
    fail(backend, error, "waiting for earlier work on cuda:" + std::to_string(device));
}

cuda::Streams::Choice choose(const cuda::Backend& backend, const DeviceOwners& device) {
  const Owner best =
      *std::min_element(device.owners.begin(), device.owners.end(),
                        [](const Owner& a, const Owner& b) { return a.kind < b.kind; });
  void* const stream = current_stream(best, device.device);
  // Tables of the exchange interface hand out tensors as they are: nothing is ordered yet.
  for (const Owner& owner : device.owners) {
    if (owner.kind == Owner::kExchangeApi && !(owner == best)) {
      wait_for(backend, device.device, current_stream(owner, device.device));
    }
  }
  const bool alone = device.owners.size() == 1 && best.kind != Owner::kNobody;
  return {device.device, stream, !alone};
}

// A kernel that follows a wrong pointer ends the whole process's use of the device. Frameworks that
// are known are trusted; for others CUDA is asked.
void check_pointer(const cuda::Backend& backend, const ImportedList& list, size_t index) {
  const Buffer& buffer = list.buffers()[index];
  if (buffer.numel == 0) return;
  int device = -1;
  const int error = on_device(backend, buffer.device.index,
                              [&] { return backend.device_of_pointer(buffer.data, &device); });
  const std::string name = item_name(list.name(), index);
  if (error != 0) fail(backend, error, "looking up the memory of " + name);
  if (device != buffer.device.index) {
    throw_value_error(name + " (a " + type_name(list.item(index)) + ") was exported on " +
                      device_name(buffer.device) + ", but its memory is " +
                      (device < 0 ? "of no CUDA device" : "on cuda:" + std::to_string(device)));
  }
}

void export_waiting(const cuda::Backend& backend, ImportedList* list,
                    const cuda::Streams& streams) {
  for (const size_t index : list->waiting()) {
    const int device = list->buffers()[index].device.index;
    ExportStream stream = {streams.of(device).stream};
    list->export_waiting(index, &stream);
    if (stream.was_ignored) wait_for(backend, device, cuda::kLegacyStream);
    if (owner_of(route_of(Py_TYPE(list->item(index)))).kind == Owner::kNobody) {
      check_pointer(backend, *list, index);
    }
  }
}

}  // namespace

StreamOwners find_owners(const std::vector<ImportedList*>& lists) {
  StreamOwners all;
  for (const ImportedList* list : lists) {
    if (!list->any_cuda()) continue;
    PyTypeObject* last_type = nullptr;
    int last_device = -1;
    for (size_t i = 0; i < list->buffers().size(); ++i) {
      const Device& device = list->buffers()[i].device;
      PyTypeObject* const type = Py_TYPE(list->item(i));
      if (device.type != DeviceType::kCuda) continue;
      if (type == last_type && device.index == last_device) continue;
      last_type = type;
      last_device = device.index;
      auto found = std::find_if(all.begin(), all.end(),
                                [&](const DeviceOwners& d) { return d.device == device.index; });
      if (found == all.end()) found = all.insert(all.end(), {device.index, {}});
      const Owner owner = owner_of(route_of(type));
      auto known = std::find(found->owners.begin(), found->owners.end(), owner);
      if (known == found->owners.end()) {
        found->owners.push_back(owner);
      } else if (known->api == nullptr) {
        known->api = owner.api;
      }
    }
  }
  return all;
}

cuda::Streams current_streams(const StreamOwners& owners) {
  cuda::Streams streams;
  if (owners.empty()) return streams;
  std::string reason;
  const cuda::Backend* const backend = cuda::backend(&reason);
  if (backend == nullptr) throw_runtime_error(reason);
  for (const DeviceOwners& device : owners) streams.set(choose(*backend, device));
  return streams;
}

cuda::Streams choose_streams(const std::vector<ImportedList*>& lists) {
  const cuda::Streams streams = current_streams(find_owners(lists));
  std::string reason;
  const cuda::Backend* const backend = cuda::backend(&reason);
  if (backend == nullptr) throw_runtime_error(reason);
  for (ImportedList* const list : lists) export_waiting(*backend, list, streams);
  return streams;
}

}  // namespace swa_fast
