#include "python/import/numpy.h"

#include <pybind11/numpy.h>

#include <string>
#include <vector>

#include "core/error.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

// Strides in elements, for an array that is not row-major.
class StridesExport : public Export {
 public:
  explicit StridesExport(size_t ndim) : strides(ndim) {}
  std::vector<int64_t> strides;
};

constexpr DType kNone = {kCodeOpaque, 0};

// NumPy's type numbers are part of its ABI. C types of the same width are told apart there, and
// not here.
DType dtype_of_type_number(int number) {
  constexpr uint8_t kLongBits = sizeof(long) * 8;
  static constexpr DType kTypes[] = {
      {kCodeBool, 8},         {kCodeInt, 8},        {kCodeUInt, 8},     {kCodeInt, 16},
      {kCodeUInt, 16},        {kCodeInt, 32},       {kCodeUInt, 32},    {kCodeInt, kLongBits},
      {kCodeUInt, kLongBits}, {kCodeInt, 64},       {kCodeUInt, 64},    {kCodeFloat, 32},
      {kCodeFloat, 64},       kNone /*longdouble*/, {kCodeComplex, 64}, {kCodeComplex, 128},
  };
  constexpr int kHalf = 23;
  if (number == kHalf) return {kCodeFloat, 16};
  if (number >= 0 && number < static_cast<int>(std::size(kTypes))) return kTypes[number];
  return kNone;
}

DType dtype_of(const py::dtype& dtype) {
  const DType known = dtype_of_type_number(dtype.num());
  if (known != kNone) return dtype.byteorder() == '>' ? kNone : known;
  // Types registered by packages have no fixed number.
  const bool bfloat16 = py::str(dtype.attr("name")).cast<std::string>() == "bfloat16";
  return bfloat16 ? DType{kCodeBFloat, 16} : kNone;
}

}  // namespace

std::unique_ptr<Export> import_numpy(PyObject* item, const char* list, size_t index,
                                     Buffer* buffer) {
  const auto array = py::reinterpret_borrow<py::array>(item);
  const DType dtype = dtype_of(array.dtype());
  if (dtype == kNone) {
    throw_type_error(item_name(list, index) + " has dtype " +
                     py::str(array.dtype()).cast<std::string>() +
                     ": numbers of up to 64 bits, or pairs of them, in this machine's byte order "
                     "are understood");
  }
  static_assert(sizeof(py::ssize_t) == sizeof(int64_t), "shapes are read in place");
  dlpack::Tensor tensor = {};
  tensor.data = const_cast<void*>(array.data());
  tensor.device = {dlpack::kCpuDevice, 0};
  tensor.ndim = static_cast<int32_t>(array.ndim());
  tensor.dtype = {dtype.code, dtype.bits, 1};
  tensor.shape = const_cast<int64_t*>(reinterpret_cast<const int64_t*>(array.shape()));
  std::unique_ptr<StridesExport> owner;
  if ((array.flags() & py::array::c_style) == 0) {
    owner = std::make_unique<StridesExport>(array.ndim());
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
      if (array.strides(axis) % dtype.itemsize() != 0) {
        throw_buffer_error(item_name(list, index) +
                           " has strides that are not a whole number of elements");
      }
      owner->strides[axis] = array.strides(axis) / dtype.itemsize();
    }
    tensor.strides = owner->strides.data();
  }
  buffer_from_dlpack(tensor, !array.writeable(), list, index, buffer);
  return owner;
}

}  // namespace swa_fast
