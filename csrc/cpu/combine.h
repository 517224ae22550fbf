// Runs weighted sums of several tensors, in one parallel region.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/term.h"
#include "cpu/kernel.h"

namespace swa_fast::cpu {

class CombineLaunch {
 public:
  explicit CombineLaunch(std::vector<double> weights) : weights_(std::move(weights)) {}

  // Adds an output of `count` numbers with one term for each weight.
  void add(void* output, StorageType storage, int64_t count, const std::vector<Term>& terms);

  int64_t bytes() const { return outputs_.empty() ? 0 : outputs_.back().end; }

  // Splits the bytes over `threads` threads. Needs no interpreter lock and throws nothing.
  void run(int threads) const noexcept;

 private:
  struct Output {
    char* data;
    StorageType storage;
    int64_t count;
    int64_t step;  // bytes that one number of it and of its terms take
    size_t first_term;
    int64_t end;  // bytes of the outputs up to and including this one, with their terms
  };
  void run_share(int64_t begin, int64_t end) const;
  void run_range(const Output& output, int64_t begin, int64_t end) const;

  std::vector<double> weights_;
  std::vector<Output> outputs_;
  std::vector<Term> terms_;
};

}  // namespace swa_fast::cpu
