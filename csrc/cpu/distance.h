// Squared distances of several pairs of tensors, and squared norms, in one parallel region.
#pragma once

#include <cstdint>
#include <vector>

#include "core/term.h"

namespace swa_fast::cpu {

class DistanceLaunch {
 public:
  // What is computed for a pair, in double.
  struct Squares {
    double difference = 0;  // sum of (one - other)^2
    double other = 0;       // sum of other^2
  };

  // Adds a pair of `count` numbers.
  void add(const Term& one, const Term& other, int64_t count);

  int64_t bytes() const { return bytes_; }

  // Returns the squares of each pair. The numbers are summed in blocks, whose sums are added in
  // order: the result has the same bits for every number of threads. Needs no interpreter lock.
  std::vector<Squares> run(int threads) const;

 private:
  struct PairOf {
    Term one;
    Term other;
    int64_t count;
    int64_t first_block;
  };
  Squares squares_of(int64_t block) const;

  std::vector<PairOf> pairs_;
  int64_t blocks_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace swa_fast::cpu
