// From Python objects to Buffers: DLPack's C exchange table, its capsules, or the buffer protocol.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "python/import/dlpack.h"

namespace swa_fast {

struct ExportStream;
struct Route;

// Something exported to us, given back when destroyed (with the interpreter lock held).
class Export {
 public:
  virtual ~Export() = default;
};

// The tensors of one argument. Keeps every object, and whatever it exported, alive: the buffers
// stay valid while another thread empties the user's list.
class ImportedList {
 public:
  // Accepts any iterable of tensors but a single tensor. Throws Error, or a Python error if the
  // iterable itself raises.
  ImportedList(pybind11::handle tensors, const char* name);

  ImportedList(const ImportedList&) = delete;
  ImportedList& operator=(const ImportedList&) = delete;

  const std::vector<Buffer>& buffers() const { return buffers_; }
  const char* name() const { return name_; }
  PyObject* item(size_t index) const {
    return PyTuple_GET_ITEM(items_.ptr(), static_cast<Py_ssize_t>(index));
  }

  bool any_cuda() const { return any_cuda_; }

  // Tensors on CUDA devices that cannot be exported before a stream is chosen: their buffers hold
  // nothing but the device until then.
  const std::vector<size_t>& waiting() const { return waiting_; }
  void export_waiting(size_t index, ExportStream* stream);

  // Tells the frameworks that keep count of writes (torch's autograd) that these were written.
  void mark_written() const;

 private:
  void import_item(PyObject* item, size_t index);
  // What ends every import, whichever way it went.
  void finish(PyObject* item, size_t index, const Route& route, std::unique_ptr<Export> owner);

  const char* name_;
  pybind11::tuple items_;
  std::vector<Buffer> buffers_;
  std::vector<std::unique_ptr<Export>> exports_;
  std::vector<size_t> waiting_;
  bool any_cuda_ = false;
  bool any_torch_ = false;
  bool all_torch_ = true;
};

// Fills `buffer` from a DLPack tensor. `name` is called for the name to use in an error.
void buffer_from_dlpack(const dlpack::Tensor& tensor, bool read_only, const char* list,
                        size_t index, Buffer* buffer);

// A borrowed look at a tensor whose type publishes the exchange table `api`: all of `buffer` but
// numel, which is not counted, and read_only. False if the type refuses, or if its elements are of
// no kind that is understood.
bool look_at_exchange(PyObject* tensor, const dlpack::ExchangeApi& api, Buffer* buffer);

// Throws a BufferError "name (a Type) cannot be exported: ..." caused by the Python error `cause`;
// anything that is not an Exception (KeyboardInterrupt) is passed on as it is.
[[noreturn]] void raise_export_error(pybind11::error_already_set& cause, PyObject* item,
                                     const std::string& name);

// "numpy.ndarray": the module and name of the object's type.
std::string type_name(PyObject* object);

}  // namespace swa_fast
