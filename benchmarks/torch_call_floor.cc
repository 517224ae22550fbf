// What torch's own functions cost, called from C as swa_fast calls them: the two views of a pair
// through the DLPack exchange table, and the version counter of the tensor that is written.
// Built and run by torch_call_floor.py.
#include <pybind11/pybind11.h>

#include "../csrc/python/import/dlpack.h"

namespace py = pybind11;
using swa_fast::dlpack::ExchangeApi;

PYBIND11_MODULE(torch_call_floor_core, m) {
  m.def("views", [](const py::object& capsule, const py::list& averages, const py::list& values) {
    auto* api = static_cast<const ExchangeApi*>(
        PyCapsule_GetPointer(capsule.ptr(), swa_fast::dlpack::kExchangeApiCapsule));
    if (api == nullptr) throw py::error_already_set();
    uintptr_t sum = 0;  // returned, so that no call can be left out
    for (const py::list& list : {averages, values}) {
      for (const py::handle tensor : list) {
        swa_fast::dlpack::Tensor view = {};
        if (api->dltensor_from_py_object_no_sync(tensor.ptr(), &view) != 0) {
          throw py::error_already_set();
        }
        sum += reinterpret_cast<uintptr_t>(view.data);
      }
    }
    return sum;
  });
}
