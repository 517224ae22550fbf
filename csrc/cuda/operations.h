// What is done to one element: the operations of csrc/cpu/, for one pair of types each.
//
// An operation has the types of its two sides, says whether it reads the destination and writes the
// source, is made from a table once per thread, and then applied to elements in registers.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/float16.h"
#include "core/op.h"
#include "cuda/counter_weight.h"

namespace swa_fast::cuda {

template <class Average, class Value>
struct LerpOp {
  using Dst = Average;
  using Src = Value;
  using Compute = ComputeType<Average, Value>;
  static constexpr bool kReadsDst = true;
  static constexpr bool kWritesSrc = false;

  Compute weight;
  bool copies;  // weight 1: the average becomes the value, whatever it held

  template <class Table>
  SWA_FAST_HOST_DEVICE explicit LerpOp(const Table& table)
      : weight(table.counter == nullptr ? static_cast<Compute>(table.weight)
                                        : counter_weight<Compute>(*table.counter)),
        copies(weight == Compute{1}) {}

  SWA_FAST_HOST_DEVICE void apply(Average& average, Value& value) const {
    const Compute v = convert<Compute>(value);
    const Compute moved = lerp(convert<Compute>(average), v, weight);
    if constexpr (std::is_same_v<Average, Value>) {
      average = copies ? value : convert<Average>(moved);
    } else {
      average = convert<Average>(copies ? v : moved);
    }
  }
};

template <class To, class From>
struct CastOp {
  using Dst = To;
  using Src = From;
  static constexpr bool kReadsDst = false;
  static constexpr bool kWritesSrc = false;

  template <class Table>
  SWA_FAST_HOST_DEVICE explicit CastOp(const Table&) {}
  SWA_FAST_HOST_DEVICE void apply(To& to, From& from) const { to = convert<To>(from); }
};

// Moves bits, whatever they mean. Unit: an unsigned integer.
template <class Unit>
struct CopyOp {
  using Dst = Unit;
  using Src = Unit;
  static constexpr bool kReadsDst = false;
  static constexpr bool kWritesSrc = false;

  template <class Table>
  SWA_FAST_HOST_DEVICE explicit CopyOp(const Table&) {}
  SWA_FAST_HOST_DEVICE void apply(Unit& to, Unit& from) const { to = from; }
};

template <class Unit>
struct SwapOp {
  using Dst = Unit;
  using Src = Unit;
  static constexpr bool kReadsDst = true;
  static constexpr bool kWritesSrc = true;

  template <class Table>
  SWA_FAST_HOST_DEVICE explicit SwapOp(const Table&) {}
  SWA_FAST_HOST_DEVICE void apply(Unit& a, Unit& b) const {
    const Unit kept = a;
    a = b;
    b = kept;
  }
};

}  // namespace swa_fast::cuda
