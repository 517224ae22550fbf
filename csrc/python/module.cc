// The Python module swa_fast._core: argument parsing, docstrings, error translation.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/plan.h"
#include "core/weight.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "python/build_config.h"
#include "python/build_info.h"
#include "python/docstrings.h"
#include "python/import/list.h"
#include "python/import/route.h"
#include "python/import/stream.h"

namespace py = pybind11;
using namespace swa_fast;

namespace {

// Lists of which the second is copied into the first.
struct Copies {
  ImportedList dst;
  ImportedList src;
};

std::unique_ptr<Copies> import_copies(py::handle copies) {
  if (copies.is_none()) return nullptr;
  const bool is_pair = PyTuple_Check(copies.ptr()) != 0 || PyList_Check(copies.ptr()) != 0;
  if (!is_pair || py::len(copies) != 2) {
    throw_type_error(
        "copies must be None or a pair of lists, (dst, src). Received: " +
        (is_pair ? std::to_string(py::len(copies)) + " items" : type_name(copies.ptr())));
  }
  const auto pair = py::reinterpret_borrow<py::sequence>(copies);
  return std::unique_ptr<Copies>(new Copies{{pair[0], "copies[0]"}, {pair[1], "copies[1]"}});
}

// What a call may have beside its two lists.
struct Extras {
  ImportedList* counter = nullptr;  // a list of one tensor
  Copies* copies = nullptr;
};

void run(Op op, py::handle dst, const char* dst_name, py::handle src, const char* src_name,
         const Weight& weight, const Extras& extras = {}) {
  ImportedList dst_list(dst, dst_name);
  ImportedList src_list(src, src_name);
  const TensorLists lists = {dst_name, src_name, dst_list.buffers(), src_list.buffers()};
  std::vector<ImportedList*> imported = {&dst_list, &src_list};
  std::optional<TensorLists> copies;
  if (extras.copies != nullptr) {
    auto& [to, from] = *extras.copies;
    copies.emplace(TensorLists{to.name(), from.name(), to.buffers(), from.buffers()});
    imported.insert(imported.end(), {&to, &from});
  }
  std::optional<Counter> counter;
  if (extras.counter != nullptr) {
    // Its buffer is filled further by choose_streams(), in place.
    counter.emplace(Counter{extras.counter->name(), extras.counter->buffers()[0]});
    imported.push_back(extras.counter);
  }
  const Counter* const on_device = counter ? &*counter : nullptr;
  cuda::Streams streams;
  const auto any_cuda = [](const ImportedList* list) { return list->any_cuda(); };
  if (std::any_of(imported.begin(), imported.end(), any_cuda)) {
    check_devices(lists, on_device);
    if (copies) check_devices(*copies, nullptr);
    streams = choose_streams(imported);
  }
  const Plan plan(op, lists, weight, on_device, copies ? &*copies : nullptr);
  if (plan.empty()) return;
  if (plan.writes_lists()) dst_list.mark_written();
  if (op == Op::kSwap) src_list.mark_written();
  if (copies) extras.copies->dst.mark_written();
  const py::gil_scoped_release unlocked;
  plan.run(streams);
}

// The tensor, as a list of one, if `count` is one on a CUDA device; reading it would wait.
std::unique_ptr<ImportedList> import_counter(py::handle count) {
  if (PyLong_Check(count.ptr()) != 0) return nullptr;
  const Route::Kind kind = route_of(Py_TYPE(count.ptr())).kind;
  if (kind != Route::kExchange && kind != Route::kTorch && kind != Route::kDlpack) return nullptr;
  auto counter = std::make_unique<ImportedList>(py::make_tuple(count), "count");
  return counter->any_cuda() ? std::move(counter) : nullptr;
}

// For a message: what str() says, or the type where it refuses (an int of thousands of digits).
std::string text_of(py::handle value) {
  try {
    return py::str(value).cast<std::string>();
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_ValueError)) throw;
    return "an " + type_name(value.ptr()) + " too long to print";
  }
}

int64_t parse_integer(py::handle value, const char* name) {
  if (PyBool_Check(value.ptr()) != 0 || PyIndex_Check(value.ptr()) == 0) {
    throw_type_error(std::string(name) + " must be an int. Received: " + type_name(value.ptr()) +
                     " " + py::repr(value).cast<std::string>());
  }
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const int64_t number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0) return overflow > 0 ? INT64_MAX : INT64_MIN;
  return number;
}

void running_mean(py::handle averages, py::handle values, py::handle count, py::handle copies) {
  const std::unique_ptr<Copies> copied = import_copies(copies);
  if (const std::unique_ptr<ImportedList> counter = import_counter(count)) {
    return run(Op::kLerp, averages, "averages", values, "values", lerp_weight(1),
               {counter.get(), copied.get()});
  }
  const int64_t n = parse_integer(count, "count");
  if (n < 0 || n > kMaxCount) {
    throw_value_error("count must be at least 0 and below 2**53. Received: " + text_of(count));
  }
  run(Op::kLerp, averages, "averages", values, "values", mean_weight(n), {nullptr, copied.get()});
}

void lerp_lists(py::handle averages, py::handle values, py::handle weight, py::handle copies) {
  const std::unique_ptr<Copies> copied = import_copies(copies);
  const double w = PyFloat_AsDouble(weight.ptr());
  if (w == -1.0 && PyErr_Occurred() != nullptr) {
    const py::error_already_set error;
    if (error.matches(PyExc_TypeError)) {
      throw_type_error("weight must be a number. Received: " + type_name(weight.ptr()));
    }
    if (!error.matches(PyExc_OverflowError)) throw error;
    throw_value_error("weight must be between 0 and 1. Received: " + text_of(weight));
  }
  if (!(w >= 0.0 && w <= 1.0)) {  // also refuses NaN
    throw_value_error("weight must be between 0 and 1. Received: " + text_of(weight));
  }
  run(Op::kLerp, averages, "averages", values, "values", lerp_weight(w), {nullptr, copied.get()});
}

// The weight is not used by these two.
void swap_lists(py::handle a, py::handle b) { run(Op::kSwap, a, "a", b, "b", lerp_weight(1)); }

void copy_lists(py::handle dst, py::handle src) {
  run(Op::kCopy, dst, "dst", src, "src", lerp_weight(1));
}

void set_threads(py::handle count) {
  const int64_t n = count.is_none() ? 0 : parse_integer(count, "n");
  if (!count.is_none() && (n < 1 || n > 4096)) {
    throw_value_error("n must be between 1 and 4096, or None for the default. Received: " +
                      text_of(count));
  }
  cpu::set_num_threads(static_cast<int>(n));
}

void translate(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::kType:
      return py::set_error(PyExc_TypeError, error.what());
    case ErrorKind::kValue:
      return py::set_error(PyExc_ValueError, error.what());
    case ErrorKind::kBuffer:
      return py::set_error(PyExc_BufferError, error.what());
    case ErrorKind::kRuntime:
      return py::set_error(PyExc_RuntimeError, error.what());
  }
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
  m.def("swap_", &swap_lists, py::arg("a"), py::arg("b"), doc::kSwap);
  m.def("copy_", &copy_lists, py::arg("dst"), py::arg("src"), doc::kCopy);
  m.def("set_num_threads", &set_threads, py::arg("n"), doc::kSetNumThreads);
  m.def("get_num_threads", &cpu::get_num_threads, doc::kGetNumThreads);
  m.def("build_info", &build_info, doc::kBuildInfo);
}
