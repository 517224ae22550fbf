// A tree of torch modules, recorded once and compared with what it is now: whether it still holds
// the same tensors, and where they are.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <vector>

namespace swa_fast {

// Owned references to Python objects; needs the interpreter lock to be emptied.
class OwnedObjects {
 public:
  OwnedObjects() = default;
  ~OwnedObjects() { clear(); }
  OwnedObjects(const OwnedObjects&) = delete;
  OwnedObjects& operator=(const OwnedObjects&) = delete;

  void resize(size_t count) { objects_.resize(count, nullptr); }
  // Takes a new reference.
  void set(size_t index, PyObject* object) {
    Py_INCREF(object);
    PyObject* const before = objects_[index];
    objects_[index] = object;
    Py_XDECREF(before);
  }
  PyObject* at(size_t index) const { return objects_[index]; }
  size_t size() const { return objects_.size(); }
  void clear() {
    for (PyObject*& object : objects_) Py_CLEAR(object);
  }

 private:
  std::vector<PyObject*> objects_;
};

// The record holds the root module and nothing else: pointers to what is below it are compared,
// and followed only where the live tree has just shown them. So a parameter that the model drops
// is freed.
class Walk {
 public:
  // Records the tree below `root`, with its buffers or without. `tensors` are those to be found in
  // it; `lists_plainly` tells of a module type whether nn.Module's own listing methods are used.
  // False, and nothing is recorded, if the tree cannot be walked like this: another listing, dicts
  // of another kind, or a tensor that is not in it.
  bool record(pybind11::handle root, pybind11::handle tensors, bool with_buffers,
              pybind11::handle lists_plainly);

  bool active() const { return static_cast<bool>(root_); }

  // Compares the tree as it is now with the record, by identity, and gives references to the
  // tensors, in the order of `tensors`. False if anything is different.
  bool collect(OwnedObjects* tensors) const;

  void forget() { root_ = pybind11::object(); }
  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(root_.ptr());
    return 0;
  }

 private:
  enum Kind { kParameters, kBuffers, kModules, kNumKinds };

  // An entry of one of a module's dicts.
  struct Member {
    const PyObject* key;
    const PyObject* object;
    const PyTypeObject* type;
    int32_t index;  // of the tensor, or of the module below; -1 for what is listed elsewhere
  };
  struct Module {
    std::array<uint32_t, kNumKinds> count;  // of members, which follow those of the module before
  };
  struct Recorder;

  bool same_members(PyObject* dict, Kind kind, uint32_t count, size_t* next, OwnedObjects* tensors,
                    OwnedObjects* modules) const;

  pybind11::object root_;
  bool with_buffers_ = false;
  std::vector<Module> modules_;
  std::vector<Member> members_;
};

// For each object its __dict__, as a list: an object that lives at least as long, belongs to it
// alone, and does not keep it alive. Where it is kept, it is never that of another object, as an
// address can be. Of an object without one, the object itself.
pybind11::list identities_of(pybind11::handle objects);

}  // namespace swa_fast
