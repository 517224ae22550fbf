#include "python/calls.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/combine.h"
#include "core/distance.h"
#include "core/error.h"
#include "core/layout.h"
#include "core/plan.h"
#include "core/weight.h"
#include "cpu/finite_check.h"
#include "cpu/threads.h"
#include "python/import/list.h"
#include "python/import/route.h"
#include "python/import/stream.h"

namespace py = pybind11;

namespace swa_fast {
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

bool any_cuda(const std::vector<ImportedList*>& lists) {
  return std::any_of(lists.begin(), lists.end(),
                     [](const ImportedList* list) { return list->any_cuda(); });
}

TensorLists lists_of(const ImportedList* to, const ImportedList* from) {
  return {to->name(), from->name(), to->buffers(), from->buffers()};
}

// What a call may have beside its two lists.
struct Extras {
  ImportedList* counter = nullptr;  // a list of one tensor
  Copies* copies = nullptr;
};

void run(Op op, ImportedList* dst, ImportedList* src, const Action& action,
         const Extras& extras = {}) {
  std::vector<ImportedList*> imported = {dst, src};
  Copies* const copies = extras.copies;
  if (copies != nullptr) imported.insert(imported.end(), {&copies->dst, &copies->src});
  std::optional<Counter> counter;
  if (extras.counter != nullptr) {
    // Its buffer is filled further by choose_streams(), in place.
    counter.emplace(Counter{extras.counter->name(), extras.counter->buffers()[0]});
    imported.push_back(extras.counter);
  }
  const Counter* const on_device = counter ? &*counter : nullptr;
  cuda::Streams streams;
  if (any_cuda(imported)) {
    check_devices(lists_of(dst, src), on_device);
    if (copies != nullptr) check_devices(lists_of(&copies->dst, &copies->src), nullptr);
    streams = choose_streams(imported);
  }
  Plan plan(false, on_device);
  plan.add(op, src->name(), src->buffers(), {{dst->name(), dst->buffers()}});
  if (copies != nullptr) {
    plan.add(Op::kCopy, copies->src.name(), copies->src.buffers(),
             {{copies->dst.name(), copies->dst.buffers(), Targets::kCopy}});
  }
  plan.prepare();
  if (plan.empty()) return;
  if (action.kind != Action::kKeep) dst->mark_written();
  if (op == Op::kSwap) src->mark_written();
  if (copies != nullptr) copies->dst.mark_written();
  const py::gil_scoped_release unlocked;
  plan.run(&action, streams);
}

void run(Op op, py::handle dst, const char* dst_name, py::handle src, const char* src_name,
         const Action& action, const Extras& extras = {}) {
  ImportedList dst_list(dst, dst_name);
  ImportedList src_list(src, src_name);
  run(op, &dst_list, &src_list, action, extras);
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

// `rule` says what the number must be: "weight must be between 0 and 1".
double parse_number(py::handle value, const std::string& name, const std::string& rule) {
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1.0 && PyErr_Occurred() != nullptr) {
    const py::error_already_set error;
    if (error.matches(PyExc_TypeError)) {
      throw_type_error(name + " must be a number. Received: " + type_name(value.ptr()));
    }
    if (!error.matches(PyExc_OverflowError)) throw error;
    throw_value_error(rule + ". Received: " + text_of(value));
  }
  return number;
}

std::vector<double> parse_weights(py::handle weights) {
  if (py::isinstance<py::iterable>(weights) == false) {
    throw_type_error("weights must be a list of numbers. Received: " + type_name(weights.ptr()));
  }
  std::vector<double> all;
  for (const py::handle weight : py::reinterpret_borrow<py::iterable>(weights)) {
    const std::string name = "weights[" + std::to_string(all.size()) + "]";
    const std::string rule = name + " must be a finite number";
    all.push_back(parse_number(weight, name, rule));
    if (!std::isfinite(all.back())) throw_value_error(rule + ". Received: " + text_of(weight));
  }
  return all;
}

}  // namespace

int64_t parse_integer(py::handle value, const char* name) {
  if (PyList_Check(value.ptr()) != 0 || PyTuple_Check(value.ptr()) != 0) {
    throw_type_error(std::string(name) +
                     " must be an int. Received: a list; it comes after the lists of tensors");
  }
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

int64_t parse_count(py::handle count) {
  const int64_t n = parse_integer(count, "count");
  if (n < 0 || n > kMaxCount) {
    throw_value_error("count must be at least 0 and below 2**53. Received: " + text_of(count));
  }
  return n;
}

double parse_weight(py::handle weight) {
  const std::string rule = "weight must be between 0 and 1";
  const double w = parse_number(weight, "weight", rule);
  if (!(w >= 0.0 && w <= 1.0)) {  // also refuses NaN
    throw_value_error(rule + ". Received: " + text_of(weight));
  }
  return w;
}

void running_mean(py::handle averages, py::handle values, py::handle count, py::handle copies) {
  const std::unique_ptr<Copies> copied = import_copies(copies);
  if (const std::unique_ptr<ImportedList> counter = import_counter(count)) {
    return run(Op::kLerp, averages, "averages", values, "values", unconditional_action(),
               {counter.get(), copied.get()});
  }
  run(Op::kLerp, averages, "averages", values, "values",
      snapshot_action(mean_weight(parse_count(count))), {nullptr, copied.get()});
}

void lerp_lists(py::handle averages, py::handle values, py::handle weight, py::handle copies) {
  const std::unique_ptr<Copies> copied = import_copies(copies);
  run(Op::kLerp, averages, "averages", values, "values",
      snapshot_action(lerp_weight(parse_weight(weight))), {nullptr, copied.get()});
}

void tfa_mean(py::handle averages, py::handle values, py::handle count) {
  run(Op::kTfaMean, averages, "averages", values, "values", tfa_mean_action(parse_count(count)));
}

void swap_lists(py::handle a, py::handle b) {
  run(Op::kSwap, a, "a", b, "b", unconditional_action());
}

void copy_lists(py::handle dst, py::handle src) {
  run(Op::kCopy, dst, "dst", src, "src", unconditional_action());
}

bool all_finite(py::handle tensors) {
  const ImportedList list(tensors, "tensors");
  for (size_t i = 0; i < list.buffers().size(); ++i) {
    const Buffer& buffer = list.buffers()[i];
    if (buffer.device.type != DeviceType::kCpu) {
      throw_value_error(item_name("tensors", i) + " is on " + device_name(buffer.device) +
                        "; must be on cpu");
    }
    if (!is_dense(buffer)) throw_buffer_error(item_name("tensors", i) + " must be dense");
  }
  const py::gil_scoped_release unlocked;
  return cpu::all_finite(list.buffers());
}

void combine_lists(py::handle outputs, py::handle sources, py::handle weights) {
  const std::vector<double> numbers = parse_weights(weights);
  if (py::isinstance<py::iterable>(sources) == false) {
    throw_type_error("sources must be a list of lists of tensors. Received: " +
                     type_name(sources.ptr()));
  }
  std::vector<std::string> names;
  std::vector<py::object> items;
  for (const py::handle source : py::reinterpret_borrow<py::iterable>(sources)) {
    names.push_back("sources[" + std::to_string(items.size()) + "]");
    items.push_back(py::reinterpret_borrow<py::object>(source));
  }
  if (items.empty()) throw_value_error("sources must hold at least one list of tensors");
  if (items.size() != numbers.size()) {
    throw_value_error("sources has " + std::to_string(items.size()) + " lists, weights has " +
                      std::to_string(numbers.size()) + " numbers: there must be one for each");
  }
  ImportedList output_list(outputs, "outputs");
  std::vector<std::unique_ptr<ImportedList>> lists;
  std::vector<SourceList> buffers;
  for (size_t k = 0; k < items.size(); ++k) {
    lists.push_back(std::make_unique<ImportedList>(items[k], names[k].c_str()));
    buffers.push_back({names[k], lists.back()->buffers()});
  }
  std::vector<ImportedList*> imported = {&output_list};
  for (const auto& list : lists) imported.push_back(list.get());
  cuda::Streams streams;
  if (any_cuda(imported)) {
    for (const auto& list : lists) check_devices(lists_of(&output_list, list.get()), nullptr);
    streams = choose_streams(imported);
  }
  const Combine combine("outputs", output_list.buffers(), buffers, numbers);
  output_list.mark_written();
  const py::gil_scoped_release unlocked;
  combine.run(streams);
}

py::list squared_distances(py::handle averages, py::handle values) {
  const ImportedList one(averages, "averages");
  const ImportedList other(values, "values");
  const Distance distance(lists_of(&one, &other));
  std::vector<cpu::DistanceLaunch::Squares> all;
  {
    const py::gil_scoped_release unlocked;
    all = distance.run();
  }
  py::list squares;
  for (const auto& pair : all) squares.append(py::make_tuple(pair.difference, pair.other));
  return squares;
}

void set_threads(py::handle count) {
  const int64_t n = count.is_none() ? 0 : parse_integer(count, "n");
  if (!count.is_none() && (n < 1 || n > 4096)) {
    throw_value_error("n must be between 1 and 4096, or None for the default. Received: " +
                      text_of(count));
  }
  cpu::set_num_threads(static_cast<int>(n));
}

}  // namespace swa_fast
