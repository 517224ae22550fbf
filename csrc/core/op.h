// The one list of operations on elements, written once for the CPU and for CUDA devices.
//
// An operation has the types of its two sides, the type that it computes in, and says whether it
// reads the destination and writes the source. It is made from `scalars`, whatever has
// as<Compute>(): Weight on the CPU, a kernel's table on a device. apply() works on elements that
// were converted to Compute; the loops convert before and after it. Translation units that use it
// are compiled without contraction to fused multiply-add: every operation rounds on its own.
#pragma once

#include <type_traits>

#include "core/float16.h"

namespace swa_fast {

// The type in which a pair is computed: double if either side is double, else float.
template <class Average, class Value>
using ComputeType =
    std::conditional_t<std::is_same_v<Average, double> || std::is_same_v<Value, double>, double,
                       float>;

// The number that an operation needs (the weight of the value, say), rounded once to each compute
// type.
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

// average + (value - average) * weight.
template <class Average, class Value>
struct LerpOp {
  using Dst = Average;
  using Src = Value;
  using Compute = ComputeType<Average, Value>;
  static constexpr bool kReadsDst = true;
  static constexpr bool kWritesSrc = false;

  Compute weight;

  template <class Scalars>
  SWA_FAST_HOST_DEVICE explicit LerpOp(const Scalars& scalars)
      : weight(scalars.template as<Compute>()) {}
  SWA_FAST_HOST_DEVICE void apply(Compute& average, Compute& value) const {
    average = average + (value - average) * weight;
  }
};

// (average * count + value) / (count + 1): the formula of tfa.optimizers.SWA.
template <class Average, class Value>
struct TfaMeanOp {
  using Dst = Average;
  using Src = Value;
  using Compute = ComputeType<Average, Value>;
  static constexpr bool kReadsDst = true;
  static constexpr bool kWritesSrc = false;

  Compute count;
  Compute total;

  template <class Scalars>
  SWA_FAST_HOST_DEVICE explicit TfaMeanOp(const Scalars& scalars)
      : count(scalars.template as<Compute>()), total(count + 1) {}
  SWA_FAST_HOST_DEVICE void apply(Compute& average, Compute& value) const {
    average = (average * count + value) / total;
  }
};

// The value, converted. Between a type and itself it is a copy of the bits: CopyOp.
template <class To, class From>
struct CastOp {
  using Dst = To;
  using Src = From;
  using Compute = ComputeType<To, From>;
  static constexpr bool kReadsDst = false;
  static constexpr bool kWritesSrc = false;

  template <class Scalars>
  SWA_FAST_HOST_DEVICE explicit CastOp(const Scalars&) {}
  SWA_FAST_HOST_DEVICE void apply(Compute& to, Compute& from) const { to = from; }
};

// Moves bits, whatever they mean. Unit: an unsigned integer.
template <class Unit>
struct CopyOp {
  using Dst = Unit;
  using Src = Unit;
  using Compute = Unit;
  static constexpr bool kReadsDst = false;
  static constexpr bool kWritesSrc = false;

  template <class Scalars>
  SWA_FAST_HOST_DEVICE explicit CopyOp(const Scalars&) {}
  SWA_FAST_HOST_DEVICE void apply(Unit& to, Unit& from) const { to = from; }
};

template <class Unit>
struct SwapOp {
  using Dst = Unit;
  using Src = Unit;
  using Compute = Unit;
  static constexpr bool kReadsDst = true;
  static constexpr bool kWritesSrc = true;

  template <class Scalars>
  SWA_FAST_HOST_DEVICE explicit SwapOp(const Scalars&) {}
  SWA_FAST_HOST_DEVICE void apply(Unit& a, Unit& b) const {
    const Unit kept = a;
    a = b;
    b = kept;
  }
};

}  // namespace swa_fast
