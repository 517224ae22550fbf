#include "python/host_copies.h"

#include <cstring>
#include <string>

#include "core/error.h"
#include "core/layout.h"
#include "python/collectable.h"
#include "python/docstrings.h"
#include "python/import/route.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

int64_t version_of(PyObject* tensor) {
  static PyObject* const name = PyUnicode_InternFromString("_version");
  PyObject* const version = PyObject_GetAttr(tensor, name);
  if (version == nullptr) throw py::error_already_set();
  const int64_t number = PyLong_AsLongLong(version);
  Py_DECREF(version);
  return number;
}

void check_fits(const ImportedList& values, const ImportedList& staging, size_t index) {
  const Buffer& value = values.buffers()[index];
  const Buffer& place = staging.buffers()[index];
  const std::string name = item_name(values.name(), index);
  if (value.dtype != place.dtype || !same_shape(value, place)) {
    throw_value_error(name + " and " + item_name(staging.name(), index) +
                      " must have one dtype and one shape");
  }
  if (!is_dense(value) || !same_dense_layout(value, place)) {
    throw_buffer_error(name + " must be dense, as " + item_name(staging.name(), index));
  }
  if (place.device.type != DeviceType::kCpu || place.read_only) {
    throw_buffer_error(item_name(staging.name(), index) + " must be writable host memory");
  }
  if (value.device.type == DeviceType::kOther) {
    throw_buffer_error(name + " is on " + device_name(value.device) +
                       "; must be on the CPU or a CUDA device");
  }
}

}  // namespace

Versions::Versions(py::handle tensors)
    : tensors_(py::reinterpret_steal<py::tuple>(PySequence_Tuple(tensors.ptr()))) {
  if (!tensors_) throw py::error_already_set();
  versions_.reserve(tensors_.size());
  for (const py::handle tensor : tensors_) versions_.push_back(version_of(tensor.ptr()));
}

int64_t Versions::first_changed() const {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    PyObject* const tensor = PyTuple_GET_ITEM(tensors_.ptr(), static_cast<Py_ssize_t>(i));
    if (version_of(tensor) != versions_[i]) return static_cast<int64_t>(i);
  }
  return -1;
}

int Versions::traverse(visitproc visit, void* arg) const {
  Py_VISIT(tensors_.ptr());
  return 0;
}

HostCopies::HostCopies(py::handle values, py::handle staging) {
  ImportedList value_list(values, "values");
  const ImportedList staging_list(staging, "staging");
  staging_ = py::reinterpret_steal<py::tuple>(PySequence_Tuple(staging.ptr()));
  if (value_list.any_cuda()) {
    owners_ = find_owners({&value_list});
    choose_streams({&value_list});  // exports what waited for a stream
  }
  const size_t count = value_list.buffers().size();
  if (staging_list.buffers().size() != count) {
    throw_value_error("there must be as many places as values. Received: " +
                      std::to_string(staging_list.buffers().size()) + " for " +
                      std::to_string(count));
  }
  signature_.reserve(count);
  places_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    check_fits(value_list, staging_list, i);
    signature_.add(value_list.buffers()[i]);
    const Buffer& place = staging_list.buffers()[i];
    places_.push_back({static_cast<char*>(place.data), static_cast<size_t>(place.num_bytes())});
  }
}

bool HostCopies::watch_values(py::handle module, py::handle values, bool with_buffers,
                              py::handle lists_plainly) {
  return walk_.record(module, values, with_buffers, lists_plainly);
}

bool HostCopies::collect(py::handle values, OwnedObjects* owned) const {
  if (values.is_none()) return walk_.active() && walk_.collect(owned);
  const auto items = py::reinterpret_steal<py::object>(
      PySequence_Fast(values.ptr(), "values must be a list of tensors"));
  if (!items) throw py::error_already_set();
  if (static_cast<size_t>(PySequence_Fast_GET_SIZE(items.ptr())) != places_.size()) return false;
  for (size_t i = 0; i < places_.size(); ++i) {
    owned->set(i, PySequence_Fast_GET_ITEM(items.ptr(), static_cast<Py_ssize_t>(i)));
  }
  return true;
}

bool HostCopies::look_at_all(const OwnedObjects& owned, std::vector<Buffer>* looks,
                             std::unique_ptr<ImportedList>* imported) const {
  bool all_seen = true;
  for (size_t i = 0; i < owned.size() && all_seen; ++i) {
    const Route& route = route_of(Py_TYPE(owned.at(i)));
    all_seen =
        route.kind == Route::kExchange && look_at_exchange(owned.at(i), *route.api, &(*looks)[i]);
  }
  if (!all_seen) {
    py::list list;
    for (size_t i = 0; i < owned.size(); ++i) list.append(py::handle(owned.at(i)));
    try {
      *imported = std::make_unique<ImportedList>(list, "values");
      if ((*imported)->any_cuda()) choose_streams({imported->get()});
    } catch (const Error&) {  // whoever prepares for them anew says what is wrong
      return false;
    } catch (const py::error_already_set& error) {
      if (!error.matches(PyExc_Exception)) throw;
      return false;
    }
    *looks = (*imported)->buffers();
  }
  for (size_t i = 0; i < owned.size(); ++i) {
    if (!signature_.is_alike(i, (*looks)[i])) return false;
    if (places_[i].bytes != 0 && (*looks)[i].data == nullptr) return false;
  }
  return true;
}

py::object HostCopies::start(py::handle values) {
  OwnedObjects owned;
  owned.resize(places_.size());
  if (!collect(values, &owned)) return py::none();
  std::vector<Buffer> looks(places_.size());
  std::unique_ptr<ImportedList> imported;  // holds what was exported; the storages do from then on
  if (!look_at_all(owned, &looks, &imported)) return py::none();
  std::vector<cuda::SideCopies::Copy> copies;
  std::vector<std::pair<const Place*, const void*>> at_once;
  copies.reserve(places_.size());
  py::list under_way;
  for (size_t i = 0; i < places_.size(); ++i) {
    const Buffer& look = looks[i];
    const Place& place = places_[i];
    if (place.bytes == 0) continue;
    if (look.device.type == DeviceType::kCpu) {
      at_once.emplace_back(&place, look.data);
      continue;
    }
    copies.push_back({look.device.index, place.data, look.data, place.bytes});
    under_way.append(py::handle(owned.at(i)));
  }
  const cuda::Streams streams = current_streams(owners_);
  hold(owned);
  try {
    const py::gil_scoped_release unlocked;
    copies_.start(copies, streams);
    for (const auto& [place, data] : at_once) std::memcpy(place->data, data, place->bytes);
  } catch (...) {
    held_.clear();
    throw;
  }
  return std::move(under_way);
}

void HostCopies::hold(const OwnedObjects& values) {
  static PyObject* const name = PyUnicode_InternFromString("untyped_storage");
  held_.resize(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const auto storage =
        py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(values.at(i), name));
    if (!storage) throw py::error_already_set();
    held_.set(i, storage.ptr());
  }
}

void HostCopies::hold_back_writers() {
  const cuda::Streams streams = current_streams(owners_);
  copies_.hold_back(streams);
}

void HostCopies::wait() {
  {
    const py::gil_scoped_release unlocked;
    copies_.wait();
  }
  held_.clear();
}

int HostCopies::traverse(visitproc visit, void* arg) const {
  Py_VISIT(staging_.ptr());
  return walk_.traverse(visit, arg);
}

void HostCopies::clear() { walk_.forget(); }

void bind_host_copies(py::module_* m) {
  py::class_<Versions>(*m, "Versions", py::custom_type_setup(make_collectable<Versions>),
                       doc::kVersions)
      .def(py::init<py::handle>(), py::arg("tensors"))
      .def("first_changed", &Versions::first_changed);
  py::class_<HostCopies>(*m, "HostCopies", py::custom_type_setup(make_collectable<HostCopies>),
                         doc::kHostCopies)
      .def(py::init<py::handle, py::handle>(), py::arg("values"), py::arg("staging"))
      .def("watch_values", &HostCopies::watch_values, py::arg("module"), py::arg("values"),
           py::arg("with_buffers"), py::arg("lists_plainly"))
      .def("start", &HostCopies::start, py::arg("values") = py::none())
      .def("hold_back_writers", &HostCopies::hold_back_writers)
      .def("wait", &HostCopies::wait);
}

}  // namespace swa_fast
