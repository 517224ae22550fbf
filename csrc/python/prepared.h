// A plan that Python keeps: prepared once for lists of tensors, run at every step after a fresh
// look at each of them.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "core/plan.h"
#include "python/import/list.h"
#include "python/import/stream.h"
#include "python/walk.h"

namespace swa_fast {

class Prepared {
 public:
  // values: a list of tensors. targets: tuples (name, role, average, shown, tensors, memory, of,
  // copied), see core/plan.h. All `tensors` lie in the tensors of the list `memory`, which are
  // looked at in their place at each run; None: each in its own. `of` and `copied`: indices, or
  // None. op: "lerp" or "tfa_mean". Throws Error if a rule of the contract is broken.
  Prepared(pybind11::handle values, const char* values_name, pybind11::handle targets,
           const std::string& op);

  // From now on, values that are not given to run() are those of a module tree; see Walk::record.
  bool watch_values(pybind11::handle module, pybind11::handle values, bool with_buffers,
                    pybind11::handle lists_plainly);
  // From now on, `tensors` must be where the module's tree has them, or run() returns false. For
  // targets that belong to a module.
  bool watch_targets(pybind11::handle module, pybind11::handle tensors, bool with_buffers,
                     pybind11::handle lists_plainly);

  // Takes a snapshot. actions: for each average None (not due), the count of a mean (int), or the
  // weight of the value (float). values: a list of tensors, or None for those watched. False, and
  // nothing was written, if the tensors are not those that this was prepared for, so that another
  // must be made. own_threads: as of Plan::run. gate: None, or the tensor of Plan::check_gate; a
  // mean's count is then its own, whatever number stands in actions. Throws Error.
  bool run(pybind11::handle actions, pybind11::handle values, int own_threads,
           pybind11::handle gate);

  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  // A tensor in which targets lie.
  struct Memory {
    pybind11::object tensor;
    void* data;
    int64_t bytes;
    pybind11::object storage_bytes;  // torch's method that tells the size of its storage, or none
  };
  // One list of targets.
  struct List {
    Targets::Role role;
    int average;
    std::vector<Memory> memory;
    pybind11::tuple torch_tensors;  // those whose writes torch must be told of
  };

  std::vector<Action> parse_actions(pybind11::handle actions) const;
  bool targets_are_same() const;
  // False if the values are others; `kept` keeps alive what is read.
  bool take_values(pybind11::handle values, OwnedObjects* owned,
                   std::unique_ptr<ImportedList>* imported);
  bool take_list(pybind11::handle values, std::unique_ptr<ImportedList>* imported);
  void run_gated(const std::vector<Action>& actions, const cuda::Streams& streams,
                 pybind11::handle gate);
  void mark_written(const std::vector<Action>& actions) const;

  std::string values_name_;
  std::vector<std::string> names_;  // of the lists of targets, for errors of the plan
  Op op_;
  Plan plan_;
  size_t count_ = 0;
  int averages_ = 1;
  Walk values_walk_;
  Walk targets_walk_;
  size_t watched_targets_ = 0;
  std::vector<std::unique_ptr<List>> lists_;
  StreamOwners owners_;
};

// Adds the class to the module.
void bind_prepared(pybind11::module_* m);

}  // namespace swa_fast
