// Fills a KernelTable, for the device or, in tests, for a grid that runs on the CPU.
#pragma once

#include "cuda/kernel.h"
#include "cuda/operations.h"
#include "cuda/table.h"

namespace swa_fast::cuda {

// Launch<Op, capacity>::run is the Launcher of an operation.
template <template <class Op, int kCapacity> class Launch, class Op>
Kernel make_kernel(const char* name) {
  return {name, sizeof(typename Op::Dst), sizeof(typename Op::Src), Launch<Op, kSmallCapacity>::run,
          Launch<Op, kLargeCapacity>::run};
}

template <template <class Op, int kCapacity> class Launch, class Dst, class... Src>
void fill_row(Kernel* lerp, Kernel* cast, TypeList<Src...>) {
  int column = 0;
  ((lerp[column] = make_kernel<Launch, LerpOp<Dst, Src>>("lerp"), ++column), ...);
  column = 0;
  const auto fill_cast = [&](auto* src) {
    using From = std::remove_pointer_t<decltype(src)>;
    // Same types are copied as bits.
    if constexpr (!std::is_same_v<Dst, From>) {
      cast[column] = make_kernel<Launch, CastOp<Dst, From>>("cast");
    }
    ++column;
  };
  (fill_cast(static_cast<Src*>(nullptr)), ...);
}

template <template <class Op, int kCapacity> class Launch, class... Unit>
void fill_units(KernelTable* table, TypeList<Unit...>) {
  int unit = 0;
  ((table->copy[unit] = make_kernel<Launch, CopyOp<Unit>>("copy"),
    table->swap[unit] = make_kernel<Launch, SwapOp<Unit>>("swap"), ++unit),
   ...);
}

template <template <class Op, int kCapacity> class Launch, class... Dst>
KernelTable make_kernel_table(TypeList<Dst...> types) {
  KernelTable table = {};
  int row = 0;
  ((fill_row<Launch, Dst>(table.lerp[row], table.cast[row], types), ++row), ...);
  fill_units<Launch>(&table, TypeList<uint8_t, uint16_t, uint32_t, uint64_t>{});
  return table;
}

}  // namespace swa_fast::cuda
