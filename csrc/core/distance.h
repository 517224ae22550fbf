// How far tensors are from others: sums of squares in double, for each pair.
#pragma once

#include <vector>

#include "core/rules.h"
#include "cpu/distance.h"

namespace swa_fast {

class Distance {
 public:
  // Throws Error if a rule of the contract is broken: both sides of a pair are in CPU memory, of
  // floating types, equal shapes and layouts.
  explicit Distance(const TensorLists& lists);

  // Call it without the interpreter lock. Nothing is written.
  std::vector<cpu::DistanceLaunch::Squares> run() const;

 private:
  cpu::DistanceLaunch launch_;
};

}  // namespace swa_fast
