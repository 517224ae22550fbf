#include "python/prepared.h"

#include <algorithm>

#include "core/error.h"
#include "core/weight.h"
#include "python/calls.h"
#include "python/collectable.h"
#include "python/docstrings.h"
#include "python/import/route.h"
#include "python/import/torch.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

Op parse_op(const std::string& op) {
  if (op == "lerp") return Op::kLerp;
  if (op == "tfa_mean") return Op::kTfaMean;
  throw_value_error("op must be 'lerp' or 'tfa_mean'. Received: '" + op + "'");
}

Targets::Role parse_role(const std::string& role) {
  if (role == "average") return Targets::kAverage;
  if (role == "copy") return Targets::kCopy;
  if (role == "view") return Targets::kView;
  throw_value_error("role must be 'average', 'copy' or 'view'. Received: '" + role + "'");
}

// A borrowed look at a tensor of a type that publishes the exchange table. False for others.
bool look_at(PyObject* tensor, Buffer* buffer) {
  const Route& route = route_of(Py_TYPE(tensor));
  return route.kind == Route::kExchange && look_at_exchange(tensor, *route.api, buffer);
}

// A sequence of indices, or None for none.
std::vector<size_t> indices_of(const py::handle& indices) {
  std::vector<size_t> all;
  if (indices.is_none()) return all;
  for (const py::handle index : py::reinterpret_borrow<py::sequence>(indices)) {
    all.push_back(index.cast<size_t>());
  }
  return all;
}

// Refuses targets that do not lie in the memory that is to be looked at in their place.
void require_inside(const ImportedList& tensors, const ImportedList& memory) {
  using Interval = std::pair<uintptr_t, uintptr_t>;
  const auto interval = [](const Buffer& buffer) -> Interval {
    const auto begin = reinterpret_cast<uintptr_t>(buffer.data);
    return {begin, begin + static_cast<uintptr_t>(buffer.num_bytes())};
  };
  std::vector<Interval> blocks;
  for (const Buffer& buffer : memory.buffers()) blocks.push_back(interval(buffer));
  std::sort(blocks.begin(), blocks.end());
  for (size_t i = 0; i < tensors.buffers().size(); ++i) {
    const Buffer& buffer = tensors.buffers()[i];
    if (buffer.numel == 0) continue;
    const Interval target = interval(buffer);
    const auto next =
        std::upper_bound(blocks.begin(), blocks.end(), Interval{target.first, UINTPTR_MAX});
    if (next != blocks.begin() && target.second <= std::prev(next)->second) continue;
    throw_value_error(item_name(tensors.name(), i) + " lies in none of its blocks of memory",
                      {"memory", static_cast<int64_t>(i)});
  }
}

// The bound method nbytes of a torch tensor's storage; what tells that it was resized.
py::object storage_bytes_of(const py::handle& tensor) {
  return tensor.attr("untyped_storage")().attr("nbytes");
}

}  // namespace

Prepared::Prepared(py::handle values, const char* values_name, py::handle targets,
                   const std::string& op)
    : values_name_(values_name), op_(parse_op(op)), plan_(true) {
  ImportedList value_list(values, values_name_.c_str());
  count_ = value_list.buffers().size();
  std::vector<std::unique_ptr<ImportedList>> imported;
  std::vector<Targets> described;
  std::vector<ImportedList*> all = {&value_list};
  const auto tuples = py::reinterpret_borrow<py::sequence>(targets);
  names_.reserve(tuples.size());  // whose strings do not move
  for (const py::handle item : tuples) {
    const auto fields = py::reinterpret_borrow<py::tuple>(item);
    names_.push_back(fields[0].cast<std::string>());
    auto list = std::make_unique<List>();
    list->role = parse_role(fields[1].cast<std::string>());
    list->average = fields[2].cast<int>();
    averages_ = std::max(averages_, list->average + 1);
    imported.push_back(std::make_unique<ImportedList>(fields[4], names_.back().c_str()));
    ImportedList& tensors = *imported.back();
    all.push_back(&tensors);
    const bool own = fields[5].is_none();
    const ImportedList memory(own ? fields[4] : fields[5], names_.back().c_str());
    py::list torch_tensors;
    for (size_t i = 0; i < memory.buffers().size(); ++i) {
      const Buffer& buffer = memory.buffers()[i];
      const py::handle tensor(memory.item(i));
      const bool is_torch = route_of(Py_TYPE(tensor.ptr())).is_torch;
      list->memory.push_back({py::reinterpret_borrow<py::object>(tensor), buffer.data,
                              buffer.num_bytes(),
                              is_torch && !own ? storage_bytes_of(tensor) : py::object()});
      if (is_torch) torch_tensors.append(tensor);
    }
    list->torch_tensors = py::tuple(torch_tensors);
    if (!own) require_inside(tensors, memory);
    described.push_back({names_.back().c_str(), tensors.buffers(), list->role, list->average,
                         fields[3].cast<int>(), indices_of(fields[6]), indices_of(fields[7])});
    lists_.push_back(std::move(list));
  }
  if (std::any_of(all.begin(), all.end(), [](const auto* list) { return list->any_cuda(); })) {
    for (size_t k = 0; k < imported.size(); ++k) {
      if (!described[k].of.empty()) continue;
      check_devices(
          {imported[k]->name(), value_list.name(), imported[k]->buffers(), value_list.buffers()},
          nullptr);
    }
    choose_streams(all);  // exports what waited for a stream
    owners_ = find_owners(all);
  }
  plan_.add(op_, values_name_.c_str(), value_list.buffers(), described);
  plan_.prepare();
}

bool Prepared::watch_values(py::handle module, py::handle values, bool with_buffers,
                            py::handle lists_plainly) {
  return values_walk_.record(module, values, with_buffers, lists_plainly);
}

bool Prepared::watch_targets(py::handle module, py::handle tensors, bool with_buffers,
                             py::handle lists_plainly) {
  watched_targets_ = py::len(tensors);
  return targets_walk_.record(module, tensors, with_buffers, lists_plainly);
}

std::vector<Action> Prepared::parse_actions(py::handle actions) const {
  std::vector<Action> parsed;
  parsed.reserve(static_cast<size_t>(averages_));
  for (const py::handle item : py::reinterpret_borrow<py::sequence>(actions)) {
    if (item.is_none()) {
      parsed.push_back({Action::kNothing, {}});
    } else if (PyFloat_Check(item.ptr()) != 0) {
      parsed.push_back(snapshot_action(lerp_weight(parse_weight(item))));
    } else {
      const int64_t count = parse_count(item);
      parsed.push_back(op_ == Op::kTfaMean ? tfa_mean_action(count)
                                           : snapshot_action(mean_weight(count)));
      parsed.back().is_mean = true;
    }
  }
  if (parsed.size() != static_cast<size_t>(averages_)) {
    throw_value_error("actions must have one item for each of " + std::to_string(averages_) +
                      " averages. Received: " + std::to_string(parsed.size()));
  }
  return parsed;
}

bool Prepared::targets_are_same() const {
  if (targets_walk_.active()) {
    OwnedObjects live;
    live.resize(watched_targets_);
    if (!targets_walk_.collect(&live)) return false;
  }
  for (const auto& list : lists_) {
    for (const Memory& memory : list->memory) {
      const Route& route = route_of(Py_TYPE(memory.tensor.ptr()));
      void* data = nullptr;
      int64_t bytes = 0;
      if (route.kind == Route::kExchange) {
        Buffer buffer;
        if (!look_at_exchange(memory.tensor.ptr(), *route.api, &buffer)) return false;
        data = buffer.data;
        bytes = buffer.dtype.itemsize();
        for (int32_t axis = 0; axis < buffer.ndim; ++axis) bytes *= buffer.shape[axis];
      } else {
        const ImportedList list_of_one(py::make_tuple(memory.tensor), "averages");
        data = list_of_one.buffers()[0].data;
        bytes = list_of_one.buffers()[0].num_bytes();
      }
      if (data != memory.data || bytes != memory.bytes) return false;
      if (memory.storage_bytes) {
        const py::object size = memory.storage_bytes();
        if (PyLong_AsSsize_t(size.ptr()) < memory.bytes) return false;
      }
    }
  }
  return true;
}

bool Prepared::take_list(py::handle values, std::unique_ptr<ImportedList>* imported) {
  *imported = std::make_unique<ImportedList>(values, values_name_.c_str());
  if ((*imported)->any_cuda()) choose_streams({imported->get()});
  return plan_.matches((*imported)->buffers());
}

bool Prepared::take_values(py::handle values, OwnedObjects* owned,
                           std::unique_ptr<ImportedList>* imported) {
  owned->resize(count_);
  if (values.is_none()) {
    if (!values_walk_.active() || !values_walk_.collect(owned)) return false;
  } else {
    const auto items = py::reinterpret_steal<py::object>(
        PySequence_Fast(values.ptr(), "values must be a list of tensors"));
    if (!items) throw py::error_already_set();
    if (static_cast<size_t>(PySequence_Fast_GET_SIZE(items.ptr())) != count_) return false;
    for (size_t i = 0; i < count_; ++i) {
      owned->set(i, PySequence_Fast_GET_ITEM(items.ptr(), static_cast<Py_ssize_t>(i)));
    }
  }
  for (size_t i = 0; i < count_; ++i) {
    Buffer buffer;
    if (look_at(owned->at(i), &buffer) && plan_.is_same(i, buffer)) continue;
    py::list list;
    for (size_t k = 0; k < count_; ++k) list.append(py::handle(owned->at(k)));
    return take_list(list, imported);
  }
  return true;
}

void Prepared::mark_written(const std::vector<Action>& actions) const {
  for (const auto& list : lists_) {
    const Action::Kind kind = actions[static_cast<size_t>(list->average)].kind;
    const bool written =
        list->role == Targets::kAverage ? kind > Action::kKeep : kind != Action::kNothing;
    if (written && !list->torch_tensors.empty()) increment_versions(list->torch_tensors);
  }
}

void Prepared::run_gated(const std::vector<Action>& actions, const cuda::Streams& streams,
                         py::handle gate) {
  if (op_ != Op::kLerp) throw_value_error("gate must be None where op is 'tfa_mean'");
  ImportedList counts(py::make_tuple(gate), "gate");
  if (counts.any_cuda()) choose_streams({&counts});
  const cuda::Gate checked = plan_.check_gate("gate", counts.buffers()[0], averages_);
  mark_written(actions);
  counts.mark_written();
  const py::gil_scoped_release unlocked;
  plan_.run_gated(actions.data(), streams, checked);
}

bool Prepared::run(py::handle actions, py::handle values, int own_threads, py::handle gate) {
  const std::vector<Action> parsed = parse_actions(actions);
  const auto due = [](const Action& action) { return action.kind != Action::kNothing; };
  if (std::none_of(parsed.begin(), parsed.end(), due)) return true;
  OwnedObjects owned;
  std::unique_ptr<ImportedList> imported;
  if (!take_values(values, &owned, &imported) || !targets_are_same()) return false;
  if (plan_.empty()) return true;
  const cuda::Streams streams = current_streams(owners_);
  if (!gate.is_none()) {
    run_gated(parsed, streams, gate);
    return true;
  }
  mark_written(parsed);
  const py::gil_scoped_release unlocked;
  plan_.run(parsed.data(), streams, own_threads);
  return true;
}

int Prepared::traverse(visitproc visit, void* arg) const {
  if (const int stop = values_walk_.traverse(visit, arg)) return stop;
  if (const int stop = targets_walk_.traverse(visit, arg)) return stop;
  for (const auto& list : lists_) {
    Py_VISIT(list->torch_tensors.ptr());
    for (const Memory& memory : list->memory) {
      Py_VISIT(memory.tensor.ptr());
      Py_VISIT(memory.storage_bytes.ptr());
    }
  }
  return 0;
}

void Prepared::clear() {
  values_walk_.forget();
  targets_walk_.forget();
  lists_.clear();
}

void bind_prepared(py::module_* m) {
  m->def("identities_of", &identities_of, py::arg("objects"), doc::kIdentitiesOf);
  py::class_<Prepared>(*m, "Prepared", py::custom_type_setup(make_collectable<Prepared>),
                       doc::kPrepared)
      .def(py::init([](py::handle values, py::handle targets, const std::string& values_name,
                       const std::string& op) {
             return std::make_unique<Prepared>(values, values_name.c_str(), targets, op);
           }),
           py::arg("values"), py::arg("targets"), py::kw_only(), py::arg("values_name") = "values",
           py::arg("op") = "lerp")
      .def("watch_values", &Prepared::watch_values, py::arg("module"), py::arg("values"),
           py::arg("with_buffers"), py::arg("lists_plainly"))
      .def("watch_targets", &Prepared::watch_targets, py::arg("module"), py::arg("tensors"),
           py::arg("with_buffers"), py::arg("lists_plainly"))
      .def("run", &Prepared::run, py::arg("actions"), py::arg("values") = py::none(),
           py::arg("own_threads") = 0, py::arg("gate") = py::none());
}

}  // namespace swa_fast
