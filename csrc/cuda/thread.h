// What one thread of a kernel does. Host code too, so that tests can run a grid on the CPU.
#pragma once

#include <cstdint>

#include "core/op.h"
#include "cuda/counter_weight.h"
#include "cuda/table.h"
#include "cuda/vector.h"

namespace swa_fast::cuda {

// The number that an operation is made from: the launch's, or that of a count in device memory.
struct UpdateScalars {
  const Update& update;
  const int64_t* counter;

  template <class Compute>
  SWA_FAST_HOST_DEVICE Compute as() const {
    return update.counted <= 0 ? static_cast<Compute>(update.scalar)
                               : counter_weight<Compute>(counter[update.counted - 1]);
  }
};

// Whether an update is the first of an average whose count is in device memory.
SWA_FAST_HOST_DEVICE bool is_first(const Update& update, const int64_t* counter) {
  const int32_t number = update.counted < 0 ? -update.counted : update.counted;
  return number != 0 && counter[number - 1] == 0;
}

// An operation on elements in registers as they are stored.
template <class Op>
struct StoredOp {
  using Dst = typename Op::Dst;
  using Src = typename Op::Src;
  using Compute = typename Op::Compute;
  static constexpr bool kReadsDst = Op::kReadsDst;
  static constexpr bool kWritesSrc = Op::kWritesSrc;

  Op op;
  bool first;  // the count in device memory is 0: the average becomes the value, whatever it held

  SWA_FAST_HOST_DEVICE StoredOp(const Update& update, const int64_t* counter)
      : op(UpdateScalars{update, counter}), first(is_first(update, counter)) {}

  SWA_FAST_HOST_DEVICE void apply(Dst& dst, Src& src) const {
    if constexpr (std::is_same_v<Dst, Compute> && std::is_same_v<Src, Compute>) {
      const Src value = src;
      op.apply(dst, src);
      if constexpr (kReadsDst && !kWritesSrc) dst = first ? value : dst;
    } else {
      Compute d = {};
      if constexpr (kReadsDst) d = convert<Compute>(dst);
      Compute s = convert<Compute>(src);
      op.apply(d, s);
      if constexpr (kReadsDst && std::is_same_v<Dst, Src>) {
        dst = first ? src : convert<Dst>(d);
      } else {
        dst = convert<Dst>(kReadsDst && first ? convert<Compute>(src) : d);
      }
    }
  }
};

// Elements `at` to `at` + kWidth of the row that begins at word `row`: the value is read once, and
// every target that is due is moved. A target is asked for before the one in front of it is
// computed, and the first together with the value, so that a thread waits for two accesses at once.
template <int kWidth, class Op, class Table>
SWA_FAST_HOST_DEVICE void run_elements(const Table& table, int row, int at) {
  using Dst = typename Op::Dst;
  using Src = typename Op::Src;
  const Header& header = table.header;
  const auto target = [&](int update) {
    return reinterpret_cast<Dst*>(table.words[row + 2 + header.update[update].target]) + at;
  };
  auto* const src = reinterpret_cast<Src*>(table.words[row + 1]) + at;
  Vector<Src, kWidth> value;
  Vector<Dst, kWidth> average, next;
  value.load(src);
  if constexpr (Op::kReadsDst) average.load(target(0));
  SWA_FAST_NO_UNROLL
  for (int update = 0; update < header.updates; ++update) {
    if constexpr (Op::kReadsDst) {
      if (update + 1 < header.updates) next.load(target(update + 1));
    }
    const StoredOp<Op> op(header.update[update], header.counter);
    SWA_FAST_UNROLL
    for (int k = 0; k < kWidth; ++k) op.apply(average.lane[k], value.lane[k]);
    average.store(target(update));
    if constexpr (Op::kWritesSrc) value.store(src);
    average = next;
  }
}

// Thread `thread` of block `block` of a grid with one block per chunk of the table.
template <class Op, class Table>
SWA_FAST_HOST_DEVICE void run_thread(const Table& table, uint32_t block, int thread) {
  constexpr int kWidth = vector_width(sizeof(typename Op::Dst), sizeof(typename Op::Src));
  if (table.header.gated != 0 && table.header.counter[-1] != 0) return;
  const int stride = row_words(table.header.targets);
  const int row = find_row(table.words, 0, table.header.rows, stride, block);
  const Place place = place_of<kWidth>(RowHead::unpack(table.words[row]), block, thread);
  if (place.whole) {
    run_elements<kWidth, Op>(table, row, place.first);
    return;
  }
  SWA_FAST_NO_UNROLL
  for (int lane = 0; lane < kWidth; ++lane) {
    if (place.holds(lane)) run_elements<1, Op>(table, row, place.at(lane));
  }
}

}  // namespace swa_fast::cuda
