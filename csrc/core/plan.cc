#include "core/plan.h"

#include <string>

#include "core/error.h"
#include "core/rules.h"
#include "cpu/isa.h"
#include "cpu/threads.h"

namespace swa_fast {
namespace {

cpu::RangeKernel cpu_kernel(const Work& work) {
  const cpu::KernelTable& kernels = cpu::active_kernels();
  switch (work.kind) {
    case Work::kLerp:
      return kernels.lerp[static_cast<int>(work.dst)][static_cast<int>(work.src)];
    case Work::kCast:
      return kernels.cast[static_cast<int>(work.dst)][static_cast<int>(work.src)];
    case Work::kCopyBits:
      return kernels.copy_bytes;
    default:
      return kernels.swap_bytes;
  }
}

void add_cuda(const Work& work, const Pair& pair, cuda::Launch* launch) {
  std::string reason;
  const cuda::KernelTable& kernels = *cuda::backend(&reason)->kernels;  // was there a moment ago
  const Buffer& dst = pair.dst();
  const Buffer& src = pair.src();
  if (work.kind == Work::kLerp || work.kind == Work::kCast) {
    const auto& table = work.kind == Work::kLerp ? kernels.lerp : kernels.cast;
    launch->add(table[static_cast<int>(work.dst)][static_cast<int>(work.src)], dst.device.index,
                dst.data, src.data, dst.numel * work.per_element);
    return;
  }
  // Bits are moved in the largest unit, up to 8 bytes, that the element and both addresses allow.
  const auto addresses =
      reinterpret_cast<uintptr_t>(dst.data) | reinterpret_cast<uintptr_t>(src.data);
  const int unit = __builtin_ctzll(addresses | static_cast<uintptr_t>(dst.dtype.itemsize()) | 8);
  const auto& table = work.kind == Work::kSwapBits ? kernels.swap : kernels.copy;
  launch->add(table[unit], dst.device.index, dst.data, src.data, dst.num_bytes() >> unit);
}

// `first` is the number that the pair with index 0 has in the call.
PairRange memory_of(const Pair& pair, size_t first) {
  const auto dst = reinterpret_cast<uintptr_t>(pair.dst().data);
  const auto src = reinterpret_cast<uintptr_t>(pair.src().data);
  return {dst, dst + pair.dst().num_bytes(), src, src + pair.src().num_bytes(), first + pair.index};
}

}  // namespace

void check_devices(const TensorLists& lists, const Counter* counter) {
  check_lengths(lists);
  for (size_t i = 0; i < lists.dst.size(); ++i) check_devices_of({lists, i});
  if (counter != nullptr) check_counter_device(*counter);
}

Plan::Plan(Op op, const TensorLists& lists, const Weight& weight, const Counter* counter,
           const TensorLists* copies)
    : weight_(weight), cpu_(weight) {
  const size_t count = lists.dst.size();
  const size_t all = count + (copies == nullptr ? 0 : copies->dst.size());
  std::vector<PairRange> ranges;
  ranges.reserve(all);
  cpu_.reserve(all);
  if (counter != nullptr) {
    check_counter(*counter);
    cuda_.set_counter(static_cast<const int64_t*>(counter->buffer.data));
  }
  // A lerp at either end of its weight is no arithmetic at all; its rules stay those of a lerp.
  // Bits are compared: to a thread that reads subnormals as zero, every subnormal equals 0.0.
  const uint64_t bits = bit_cast<uint64_t>(weight.f64);
  const bool known = op == Op::kLerp && counter == nullptr;
  const Op effect = known && bits == bit_cast<uint64_t>(1.0) ? Op::kCopy : op;
  const bool writes_nothing = known && bits << 1 == 0;  // 0 or -0
  writes_lists_ = !writes_nothing;
  add({op, effect, writes_nothing}, lists, counter, 0, &ranges);
  if (copies != nullptr) add({Op::kCopy, Op::kCopy, false}, *copies, counter, count, &ranges);
  const auto name = [&](size_t pair, bool is_src) {
    const bool copied = pair >= count;
    const TensorLists& of = copied ? *copies : lists;
    return item_name(is_src ? of.src_name : of.dst_name, copied ? pair - count : pair);
  };
  check_overlap(ranges, name, op == Op::kSwap);
}

void Plan::add(const Effect& op, const TensorLists& lists, const Counter* counter, size_t first,
               std::vector<PairRange>* ranges) {
  check_lengths(lists);
  Work work = {};
  cpu::RangeKernel kernel = nullptr;
  for (size_t i = 0; i < lists.dst.size(); ++i) {
    const Pair pair{lists, i};
    check_pair(op.rules, pair);
    // Lists mostly hold one pair of types: looked up when it changes.
    if (i == 0 || pair.dst().dtype != lists.dst[i - 1].dtype ||
        pair.src().dtype != lists.src[i - 1].dtype) {
      work = find_work(op.rules, op.effect, pair);
      kernel = cpu_kernel(work);
    }
    const int64_t numel = pair.dst().numel;
    if (numel == 0) continue;
    check_alignment(work, pair);
    ranges->push_back(memory_of(pair, first));
    if (counter != nullptr) check_counter_of(*counter, pair, ranges->back());
    // A tensor copied onto or swapped with itself stays as it is.
    const bool itself = pair.dst().data == pair.src().data && pair.dst().dtype == pair.src().dtype;
    if (op.writes_nothing || (itself && op.effect != Op::kLerp)) continue;
    if (pair.dst().device.type == DeviceType::kCuda) {
      add_cuda(work, pair, &cuda_);
    } else {
      cpu_.add(kernel, pair.dst().data, pair.src().data, numel * work.per_element, work.dst_step,
               work.src_step);
    }
  }
}

void Plan::run(const cuda::Streams& streams) const {
  cuda_.run(weight_, streams);
  cpu_.run(cpu::threads_for(cpu_.bytes()));
}

}  // namespace swa_fast
