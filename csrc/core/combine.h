// One output for each tensor position: the weighted sum of several lists of tensors.
#pragma once

#include <vector>

#include "core/buffer.h"
#include "core/overlap.h"
#include "cpu/combine.h"
#include "cuda/combine.h"

namespace swa_fast {

// One list of sources and what the user calls it.
struct SourceList {
  std::string name;  // "sources[2]"
  const std::vector<Buffer>& buffers;
};

// outputs[i] = sum over k of weights[k] * sources[k][i], products and sums in double in the order
// of k, rounded once to the type of the output. An output may be one of its own sources.
class Combine {
 public:
  // Throws Error if a rule of the contract is broken; there is at least one list of sources, and
  // `weights` has one finite number for each.
  Combine(const char* outputs_name, const std::vector<Buffer>& outputs,
          const std::vector<SourceList>& sources, const std::vector<double>& weights);

  // Does the work: on the CPU before it returns, on CUDA devices in the order of their streams.
  // Call it without the interpreter lock. Throws RuntimeError if CUDA refuses a launch; nothing
  // else can fail.
  void run(const cuda::Streams& streams = {}) const;

 private:
  cpu::CombineLaunch cpu_;
  cuda::CombineLaunch cuda_;
};

}  // namespace swa_fast
