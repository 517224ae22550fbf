// The Python module swa_fast._core: its names, docstrings, and the translation of errors.
#include <pybind11/pybind11.h>

#include "core/error.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "python/build_config.h"
#include "python/build_info.h"
#include "python/calls.h"
#include "python/docstrings.h"
#include "python/host_copies.h"
#include "python/prepared.h"

namespace py = pybind11;
using namespace swa_fast;

namespace {

PyObject* python_type(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kType:
      return PyExc_TypeError;
    case ErrorKind::kValue:
      return PyExc_ValueError;
    case ErrorKind::kBuffer:
      return PyExc_BufferError;
    default:
      return PyExc_RuntimeError;
  }
}

// Sets the Python error, with the attribute `refusal`: (rule, index of the pair or -1).
void translate(const Error& error) {
  PyObject* const type = python_type(error.kind());
  const Refusal& refusal = error.refusal();
  const auto exception =
      py::reinterpret_steal<py::object>(PyObject_CallFunction(type, "s", error.what()));
  if (!exception) return;
  exception.attr("refusal") = py::make_tuple(refusal.rule, refusal.index);
  PyErr_SetObject(type, exception.ptr());
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Fused in-place operations on lists of tensors. Use them through swa_fast.";
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      translate(error);
    }
  });
  cpu::active_kernels();  // an impossible SWA_FAST_ISA is reported at import

  py::options options;
  options.disable_function_signatures();  // every docstring begins with its own
  m.attr("__version__") = SWA_FAST_VERSION;
  m.def("running_mean_", &running_mean, py::arg("averages"), py::arg("values"), py::arg("count"),
        py::kw_only(), py::arg("copies") = py::none(), doc::kRunningMean);
  m.def("lerp_", &lerp_lists, py::arg("averages"), py::arg("values"), py::arg("weight"),
        py::kw_only(), py::arg("copies") = py::none(), doc::kLerp);
  m.def("tfa_mean_", &tfa_mean, py::arg("averages"), py::arg("values"), py::arg("count"),
        doc::kTfaMean);
  m.def("swap_", &swap_lists, py::arg("a"), py::arg("b"), doc::kSwap);
  m.def("copy_", &copy_lists, py::arg("dst"), py::arg("src"), doc::kCopy);
  m.def("combine_", &combine_lists, py::arg("outputs"), py::arg("sources"), py::arg("weights"),
        doc::kCombine);
  m.def("squared_distances", &squared_distances, py::arg("averages"), py::arg("values"),
        doc::kSquaredDistances);
  m.def("all_finite", &all_finite, py::arg("tensors"), doc::kAllFinite);
  bind_prepared(&m);
  bind_host_copies(&m);
  m.def("set_num_threads", &set_threads, py::arg("n"), doc::kSetNumThreads);
  m.def("get_num_threads", &cpu::get_num_threads, doc::kGetNumThreads);
  m.def("build_info", &build_info, doc::kBuildInfo);
}
