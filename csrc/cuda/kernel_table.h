// Fills a KernelTable, for the device or, in tests, for a grid that runs on the CPU.
#pragma once

#include "core/op.h"
#include "cuda/kernel.h"
#include "cuda/table.h"

namespace swa_fast::cuda {

// Launch<Op, bytes of arguments>::run is the Launcher of an operation.
template <template <class Op, size_t kArguments> class Launch, class Op>
Kernel make_kernel(const char* name) {
  return {name, sizeof(typename Op::Dst), sizeof(typename Op::Src),
          Launch<Op, kSmallArguments>::run, Launch<Op, kLargeArguments>::run};
}

// The unsigned integer of a size in bytes, in which bits are moved.
template <size_t kSize>
using UnitOf = std::conditional_t<
    kSize == 8, uint64_t,
    std::conditional_t<kSize == 4, uint32_t, std::conditional_t<kSize == 2, uint16_t, uint8_t>>>;

template <template <class Op, size_t kArguments> class Launch, class Dst, class Src>
void fill_pair(KernelTable* table, int row, int column) {
  table->lerp[row][column] = make_kernel<Launch, LerpOp<Dst, Src>>("lerp");
  table->tfa_mean[row][column] = make_kernel<Launch, TfaMeanOp<Dst, Src>>("tfa_mean");
  if constexpr (std::is_same_v<Dst, Src>) {
    table->cast[row][column] = make_kernel<Launch, CopyOp<UnitOf<sizeof(Dst)>>>("copy");
  } else {
    table->cast[row][column] = make_kernel<Launch, CastOp<Dst, Src>>("cast");
  }
}

template <template <class Op, size_t kArguments> class Launch, class Dst, class... Src>
void fill_row(KernelTable* table, int row, TypeList<Src...>) {
  int column = 0;
  (fill_pair<Launch, Dst, Src>(table, row, column++), ...);
}

template <template <class Op, size_t kArguments> class Launch, class... Unit>
void fill_units(KernelTable* table, TypeList<Unit...>) {
  int unit = 0;
  ((table->copy[unit] = make_kernel<Launch, CopyOp<Unit>>("copy"),
    table->swap[unit] = make_kernel<Launch, SwapOp<Unit>>("swap"), ++unit),
   ...);
}

// SumLaunch<type of the output, bytes of arguments>::run is the Launcher of a weighted sum,
// CheckLaunch<type of the values, bytes of arguments>::run that of a look for NaN and infinity.
template <template <class Op, size_t kArguments> class Launch,
          template <class Dst, size_t kArguments> class SumLaunch,
          template <class Src, size_t kArguments> class CheckLaunch, class... Dst>
KernelTable make_kernel_table(TypeList<Dst...> types, Launcher count) {
  KernelTable table = {};
  int row = 0;
  (fill_row<Launch, Dst>(&table, row++, types), ...);
  row = 0;
  ((table.combine[row++] = {"combine", sizeof(Dst), 0, SumLaunch<Dst, kSmallArguments>::run,
                            SumLaunch<Dst, kLargeArguments>::run}),
   ...);
  row = 0;
  ((table.check[row++] = {"check", sizeof(Dst), sizeof(Dst), CheckLaunch<Dst, kSmallArguments>::run,
                          CheckLaunch<Dst, kLargeArguments>::run}),
   ...);
  table.count = count;
  fill_units<Launch>(&table, TypeList<uint8_t, uint16_t, uint32_t, uint64_t>{});
  return table;
}

}  // namespace swa_fast::cuda
