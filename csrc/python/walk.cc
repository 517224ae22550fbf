#include "python/walk.h"

#include <string>
#include <unordered_map>

#include "core/error.h"

namespace py = pybind11;

// Other threads may change a dict while it is read only where there is no interpreter lock.
#if !defined(Py_BEGIN_CRITICAL_SECTION)
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

namespace swa_fast {
namespace {

// The names of a module's three dicts, in the order of Walk::Kind; alive as long as the process.
PyObject* name_of(int kind) {
  static PyObject* const names[] = {PyUnicode_InternFromString("_parameters"),
                                    PyUnicode_InternFromString("_buffers"),
                                    PyUnicode_InternFromString("_modules")};
  return names[kind];
}

// The instance's __dict__, or nothing for an object that has none or another kind of one.
py::object dict_of(PyObject* object) {
  PyObject* const dict = PyObject_GenericGetDict(object, nullptr);
  if (dict == nullptr) PyErr_Clear();
  const auto owned = py::reinterpret_steal<py::object>(dict);
  return owned && PyDict_CheckExact(owned.ptr()) ? owned : py::object();
}

// An item that is a dict, or nothing.
py::object dict_in(PyObject* dict, PyObject* key) {
  PyObject* item = nullptr;
  Py_BEGIN_CRITICAL_SECTION(dict);
  item = PyDict_GetItemWithError(dict, key);
  Py_XINCREF(item);
  Py_END_CRITICAL_SECTION();
  if (item == nullptr) PyErr_Clear();
  const auto owned = py::reinterpret_steal<py::object>(item);
  return owned && PyDict_CheckExact(owned.ptr()) ? owned : py::object();
}

}  // namespace

// The tree in the order in which torch lists it: each module before those below it.
struct Walk::Recorder {
  const bool with_buffers;
  const py::handle lists_plainly;
  std::unordered_map<const PyObject*, int32_t> wanted;  // tensors not found yet, with their index
  std::unordered_map<const PyObject*, int32_t> seen;    // modules
  std::vector<py::object> order;                        // modules
  std::vector<Module> modules;
  std::vector<Member> members;

  int32_t index_of(Kind kind, PyObject* object) {
    if (kind != kModules) {
      const auto found = wanted.find(object);
      if (found == wanted.end()) return -1;
      const int32_t index = found->second;
      wanted.erase(found);
      return index;
    }
    if (object == Py_None || !seen.emplace(object, 0).second) return -1;
    order.push_back(py::reinterpret_borrow<py::object>(object));
    return static_cast<int32_t>(order.size()) - 1;
  }

  bool visit(size_t index) {
    const py::object module = order[index];  // a copy: `order` grows below
    const py::handle type(reinterpret_cast<PyObject*>(Py_TYPE(module.ptr())));
    if (!lists_plainly(type).cast<bool>()) return false;
    const py::object dict = dict_of(module.ptr());
    if (!dict) return false;
    modules.push_back({});
    for (int kind = 0; kind < kNumKinds; ++kind) {
      if (kind == kBuffers && !with_buffers) continue;
      const py::object entries = dict_in(dict.ptr(), name_of(kind));
      if (!entries) return false;
      for (const auto& [key, object] : py::reinterpret_borrow<py::dict>(entries)) {
        members.push_back({key.ptr(), object.ptr(), Py_TYPE(object.ptr()),
                           index_of(static_cast<Kind>(kind), object.ptr())});
        ++modules.back().count[kind];
      }
    }
    return true;
  }
};

bool Walk::record(py::handle root, py::handle tensors, bool with_buffers,
                  py::handle lists_plainly) {
  forget();
  Recorder recorder = {with_buffers, lists_plainly, {}, {}, {}, {}, {}};
  int32_t index = 0;
  for (const py::handle tensor : tensors) recorder.wanted.emplace(tensor.ptr(), index++);
  recorder.index_of(kModules, root.ptr());
  for (size_t next = 0; next < recorder.order.size(); ++next) {
    if (!recorder.visit(next)) return false;
  }
  if (!recorder.wanted.empty()) return false;
  root_ = py::reinterpret_borrow<py::object>(root);
  with_buffers_ = with_buffers;
  modules_ = std::move(recorder.modules);
  members_ = std::move(recorder.members);
  return true;
}

bool Walk::same_members(PyObject* dict, Kind kind, uint32_t count, size_t* next,
                        OwnedObjects* tensors, OwnedObjects* modules) const {
  bool same = true;
  Py_BEGIN_CRITICAL_SECTION(dict);
  same = PyDict_Size(dict) == static_cast<Py_ssize_t>(count);
  Py_ssize_t position = 0;
  PyObject* key = nullptr;
  PyObject* object = nullptr;
  while (same && PyDict_Next(dict, &position, &key, &object) != 0) {
    const Member& member = members_[(*next)++];
    same = key == member.key && object == member.object && Py_TYPE(object) == member.type;
    if (!same || member.index < 0) continue;
    (kind == kModules ? modules : tensors)->set(static_cast<size_t>(member.index), object);
  }
  Py_END_CRITICAL_SECTION();
  return same;
}

py::list identities_of(py::handle objects) {
  if (PyList_Check(objects.ptr()) == 0) {
    throw_type_error("objects must be a list. Received: " +
                     std::string(Py_TYPE(objects.ptr())->tp_name));
  }
  py::list identities;
  for (const py::handle object : objects) {
    PyObject* const dict = PyObject_GenericGetDict(object.ptr(), nullptr);
    if (dict == nullptr) {
      PyErr_Clear();
      identities.append(object);
    } else {
      identities.append(py::reinterpret_steal<py::object>(dict));
    }
  }
  return identities;
}

bool Walk::collect(OwnedObjects* tensors) const {
  OwnedObjects modules;
  modules.resize(modules_.size());
  modules.set(0, root_.ptr());
  size_t next = 0;
  for (size_t i = 0; i < modules_.size(); ++i) {
    const py::object dict = dict_of(modules.at(i));
    if (!dict) return false;
    for (int kind = 0; kind < kNumKinds; ++kind) {
      if (kind == kBuffers && !with_buffers_) continue;
      const py::object entries = dict_in(dict.ptr(), name_of(kind));
      if (!entries || !same_members(entries.ptr(), static_cast<Kind>(kind), modules_[i].count[kind],
                                    &next, tensors, &modules)) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace swa_fast
