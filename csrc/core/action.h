// What a call does to one average, decided when it runs and not when it was prepared.
#pragma once

#include <cstdint>

#include "core/op.h"
#include "core/weight.h"

namespace swa_fast {

struct Action {
  enum Kind : uint8_t {
    kNothing,  // no snapshot is due: neither the average nor what follows it is touched
    kKeep,     // weight 0: the average stays as it is; what follows it is copied
    kCopy,     // weight 1: the average becomes the value, whatever it held
    kBlend,    // any other weight, or one that only a CUDA device knows
  };
  Kind kind;
  Weight weight;
  bool is_mean = false;  // with a gate: the weight is that of a mean, by the device's own count
};

// The action of a snapshot with this weight. Bits are compared: to a thread that reads subnormals
// as zero, every subnormal equals 0.0.
inline Action snapshot_action(const Weight& weight) {
  const uint64_t bits = bit_cast<uint64_t>(weight.f64);
  if (bits << 1 == 0) return {Action::kKeep, weight};  // 0 or -0
  const bool one = bits == bit_cast<uint64_t>(1.0);
  return {one ? Action::kCopy : Action::kBlend, weight};
}

// The action of TFA's mean of `count` values and one more; the first value is copied.
inline Action tfa_mean_action(int64_t count) {
  const auto n = static_cast<double>(count);  // exact: counts are below 2^53
  return {count == 0 ? Action::kCopy : Action::kBlend, {nearest_float(n), n}};
}

// What is done in any case: copies and swaps.
inline Action unconditional_action() { return {Action::kBlend, {1.0f, 1.0}}; }

}  // namespace swa_fast
