#include "python/import/pybuffer.h"

#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

class BufferExport : public Export {
 public:
  ~BufferExport() override {
    if (view.obj != nullptr) PyBuffer_Release(&view);
  }
  Py_buffer view = {};
  std::vector<int64_t> strides;  // in elements; empty if row-major
};

// The element type of a struct-module format, or code kCodeOpaque for one that is not a plain
// number in this machine's byte order.
DType dtype_of_format(const char* format, Py_ssize_t itemsize) {
  constexpr DType kNone = {kCodeOpaque, 0};
  if (format == nullptr) format = "B";
  if (*format == '@' || *format == '=' || *format == '<') ++format;
  const bool is_complex = *format == 'Z';
  if (is_complex) ++format;
  if (std::strlen(format) != 1) return kNone;
  const auto bits = static_cast<uint8_t>(itemsize * 8);
  if (std::strchr("efd", *format) != nullptr) return {is_complex ? kCodeComplex : kCodeFloat, bits};
  if (is_complex) return kNone;
  if (std::strchr("bhilqn", *format) != nullptr) return {kCodeInt, bits};
  if (std::strchr("BHILQN", *format) != nullptr) return {kCodeUInt, bits};
  if (*format == '?') return {kCodeBool, bits};
  return kNone;
}

// Strides in elements for the core; false if one is not a whole number of elements.
bool convert_strides(const Py_buffer& view, std::vector<int64_t>* strides) {
  if (view.strides == nullptr || PyBuffer_IsContiguous(&view, 'C')) return true;
  strides->resize(view.ndim);
  for (int axis = 0; axis < view.ndim; ++axis) {
    if (view.strides[axis] % view.itemsize != 0) return false;
    (*strides)[axis] = view.strides[axis] / view.itemsize;
  }
  return true;
}

}  // namespace

std::unique_ptr<Export> import_python_buffer(PyObject* item, const char* list, size_t index,
                                             Buffer* buffer) {
  auto owner = std::make_unique<BufferExport>();
  if (PyObject_GetBuffer(item, &owner->view, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    py::error_already_set error;
    raise_export_error(error, item, item_name(list, index));
  }
  const Py_buffer& view = owner->view;
  const DType dtype = dtype_of_format(view.format, view.itemsize);
  if (dtype.code == kCodeOpaque) {
    throw_type_error(item_name(list, index) + " has elements of format '" +
                     (view.format != nullptr ? view.format : "") +
                     "': plain numbers in this machine's byte order are understood");
  }
  if (!convert_strides(view, &owner->strides)) {
    throw_buffer_error(item_name(list, index) +
                       " has strides that are not a whole number of elements");
  }
  static_assert(sizeof(Py_ssize_t) == sizeof(int64_t), "shapes are read in place");
  dlpack::Tensor tensor = {};
  tensor.data = view.buf;
  tensor.device = {dlpack::kCpuDevice, 0};
  tensor.ndim = view.ndim;
  tensor.dtype = {dtype.code, dtype.bits, 1};
  tensor.shape = reinterpret_cast<int64_t*>(view.shape);
  tensor.strides = owner->strides.empty() ? nullptr : owner->strides.data();
  buffer_from_dlpack(tensor, view.readonly != 0, list, index, buffer);
  return owner;
}

}  // namespace swa_fast
