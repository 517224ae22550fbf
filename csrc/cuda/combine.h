// Queues weighted sums of several tensors on CUDA devices.
#pragma once

#include <cstdint>
#include <vector>

#include "core/term.h"
#include "cuda/backend.h"
#include "cuda/streams.h"

namespace swa_fast::cuda {

// Sources that one output may have here: their addresses go with the launch.
int most_sources(const Backend& backend);

class CombineLaunch {
 public:
  explicit CombineLaunch(std::vector<double> weights) : weights_(std::move(weights)) {}

  // Adds an output of `count` numbers with one term for each weight.
  void add(int device, void* output, StorageType storage, int64_t count,
           const std::vector<Term>& terms);

  // Queues everything. Throws as Launch::run does.
  void run(const Streams& streams) const;

 private:
  // Outputs of one type with sources of the same types.
  struct Group {
    int device;
    StorageType storage;
    std::vector<StorageType> types;
    std::vector<size_t> outputs;
    int64_t rows;
  };
  struct Output {
    char* data;
    int64_t count;
    size_t first_term;
  };
  void run_group(const Backend& backend, const Group& group, void* stream) const;

  std::vector<double> weights_;
  std::vector<Output> outputs_;
  std::vector<Term> terms_;
  std::vector<Group> groups_;
};

}  // namespace swa_fast::cuda
