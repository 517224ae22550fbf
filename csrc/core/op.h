// The arithmetic of one element, written once for the CPU and for CUDA devices.
#pragma once

#include <type_traits>

#include "core/float16.h"

namespace swa_fast {

// The type in which a pair is computed: double if either side is double, else float.
template <class Average, class Value>
using ComputeType =
    std::conditional_t<std::is_same_v<Average, double> || std::is_same_v<Value, double>, double,
                       float>;

// The weight of the value, rounded once to each compute type.
struct Weight {
  float f32;
  double f64;

  template <class Compute>
  SWA_FAST_HOST_DEVICE Compute as() const {
    if constexpr (std::is_same_v<Compute, double>) {
      return f64;
    } else {
      return f32;
    }
  }
};

// average + (value - average) * weight, each operation rounded on its own. Translation units that
// use it are compiled without contraction to fused multiply-add.
template <class Compute>
SWA_FAST_HOST_DEVICE Compute lerp(Compute average, Compute value, Compute weight) {
  return average + (value - average) * weight;
}

}  // namespace swa_fast
