// Copies of a list of tensors to host memory, prepared once and made again at every snapshot.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "core/signature.h"
#include "cuda/side_copies.h"
#include "python/import/list.h"
#include "python/import/stream.h"
#include "python/walk.h"

namespace swa_fast {

// Version counters of torch tensors, as they were when they were read.
class Versions {
 public:
  Versions() = default;
  explicit Versions(pybind11::handle tensors);

  // The index of the first tensor that was written since, or -1. torch raises the version when a
  // write is queued, so an unchanged version proves that none was.
  int64_t first_changed() const;

  int traverse(visitproc visit, void* arg) const;
  void clear() { tensors_ = pybind11::tuple(); }

 private:
  pybind11::tuple tensors_;
  std::vector<int64_t> versions_;
};

class HostCopies {
 public:
  // Prepares copies of torch tensors, each dense, into as many tensors in host memory of the same
  // dtypes, shapes and strides. Throws Error if a pair does not fit.
  HostCopies(pybind11::handle values, pybind11::handle staging);

  // As Prepared::watch_values.
  bool watch_values(pybind11::handle module, pybind11::handle values, bool with_buffers,
                    pybind11::handle lists_plainly);

  // Copies values in host memory at once, and starts to copy the others. values: a list, or None
  // for those watched. Returns the list of those whose copies are under way; None, and nothing was
  // started, if the values are not those that this was prepared for. Throws Error.
  pybind11::object start(pybind11::handle values);

  // Lets work that is queued from now on wait, on its device, for the copies.
  void hold_back_writers();

  // Waits on the host, without the interpreter lock, until the copies are made.
  void wait();

  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  // Where a copy goes.
  struct Place {
    char* data;
    size_t bytes;
  };
  bool collect(pybind11::handle values, OwnedObjects* owned) const;
  // Views of the values; false if they are others than those that this was prepared for.
  bool look_at_all(const OwnedObjects& owned, std::vector<Buffer>* looks,
                   std::unique_ptr<ImportedList>* imported) const;

  void hold(const OwnedObjects& values);

  Signature signature_;
  std::vector<Place> places_;
  pybind11::tuple staging_;  // kept alive
  StreamOwners owners_;
  Walk walk_;
  // Storages of the values while they are copied: no memory is reused before it was read, even if a
  // tensor is freed or given other memory.
  OwnedObjects held_;
  cuda::SideCopies copies_;  // the first to go: it waits
};

// Adds both classes to the module.
void bind_host_copies(pybind11::module_* m);

}  // namespace swa_fast
