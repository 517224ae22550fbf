#include "multi_tensor.h"

#include <string>

#include "cpu/isa.h"
#include "cpu/threads.h"
#include "error.h"
#include "layout.h"
#include "overlap.h"

namespace swa_fast {
namespace {

// One pair, with what is needed to name it in a message.
struct Pair {
  const TensorLists& lists;
  size_t index;

  const Buffer& dst() const { return lists.dst[index]; }
  const Buffer& src() const { return lists.src[index]; }
  std::string dst_name() const { return item_name(lists.dst_name, index); }
  std::string src_name() const { return item_name(lists.src_name, index); }

  // "averages[3] has shape (2, 3), values[3] has shape (3, 2)"
  std::string differ(const char* what, const std::string& dst_has,
                     const std::string& src_has) const {
    return dst_name() + " has " + what + " " + dst_has + ", " + src_name() + " has " + what + " " +
           src_has;
  }
};

void check_lengths(const TensorLists& lists) {
  if (lists.dst.size() == lists.src.size()) return;
  throw_value_error(std::string(lists.dst_name) + " has " + std::to_string(lists.dst.size()) +
                    " tensors, " + lists.src_name + " has " + std::to_string(lists.src.size()) +
                    ": the lists must be equally long");
}

bool is_reachable(const Device& device, std::string* reason) {
  return device.type == DeviceType::kCpu ||
         (device.type == DeviceType::kCuda && cuda::backend(reason) != nullptr);
}

[[noreturn]] void refuse_device(const Buffer& buffer, const std::string& name,
                                const std::string& reason) {
  if (buffer.device.type == DeviceType::kCuda) {
    throw_runtime_error(name + " is on " + device_name(buffer.device) + ", and " + reason);
  }
  throw_runtime_error(name + " is on a device that swa_fast cannot reach (" +
                      device_name(buffer.device) + "): move the tensors to the CPU first");
}

void check_devices_of(const Pair& pair) {
  if (pair.dst().device != pair.src().device) {
    throw_value_error(pair.dst_name() + " is on " + device_name(pair.dst().device) + ", " +
                      pair.src_name() + " is on " + device_name(pair.src().device) +
                      ": the two must be on one device");
  }
  std::string reason;
  if (!is_reachable(pair.dst().device, &reason)) {
    refuse_device(pair.dst(), pair.dst_name(), reason);
  }
}

// What is to be done to a pair's elements, and what those are.
struct Work {
  enum Kind { kLerp, kCast, kCopyBits, kSwapBits } kind;
  StorageType dst;  // of kLerp and kCast
  StorageType src;
  int per_element;   // numbers in one element of the tensor; of bits, bytes
  int64_t dst_step;  // bytes per number; of bits, 1
  int64_t src_step;
  // What the addresses must be multiples of: kernels on floating types read and write whole
  // numbers, which C++ wants aligned; byte-wise copies and swaps do not care.
  int64_t dst_alignment;
  int64_t src_alignment;
};

[[noreturn]] void refuse_average(const std::string& name, DType dtype) {
  throw_type_error(name + " has dtype " + dtype_name(dtype) +
                   ": only floating-point tensors can be averaged (copy_ takes any type)");
}

// Checks the rules on element types that `rules` sets, and finds the work that has `effect`.
Work find_work(Op rules, Op effect, const Pair& pair) {
  const DType dst = pair.dst().dtype;
  const DType src = pair.src().dtype;
  const FloatingView dst_view = floating_view(dst);
  const FloatingView src_view = floating_view(src);
  if (rules == Op::kLerp) {
    if (!dst_view.floating) refuse_average(pair.dst_name(), dst);
    if (!src_view.floating) refuse_average(pair.src_name(), src);
  }
  if (dst == src && effect != Op::kLerp) {
    const int bytes = static_cast<int>(dst.itemsize());
    const auto kind = effect == Op::kSwap ? Work::kSwapBits : Work::kCopyBits;
    // A lerp that comes down to a copy of bits keeps its rules.
    const int64_t alignment = rules == Op::kLerp ? bytes / dst_view.per_element : 1;
    return {kind, dst_view.storage, src_view.storage, bytes, 1, 1, alignment, alignment};
  }
  if (dst != src) {
    const std::string differ = pair.differ("dtype", dtype_name(dst), dtype_name(src));
    if (rules == Op::kSwap) throw_type_error(differ + ": swapped tensors must have the same dtype");
    if (!dst_view.floating || !src_view.floating) {
      throw_type_error(differ + ": conversion is between floating-point types only");
    }
    if (dst_view.per_element != src_view.per_element) {
      throw_type_error(differ + ": complex tensors pair with complex tensors only");
    }
  }
  const int64_t dst_step = dst.itemsize() / dst_view.per_element;
  const int64_t src_step = src.itemsize() / src_view.per_element;
  return {effect == Op::kLerp ? Work::kLerp : Work::kCast,
          dst_view.storage,
          src_view.storage,
          dst_view.per_element,
          dst_step,
          src_step,
          dst_step,
          src_step};
}

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

void check_counter_device(const Counter& counter) {
  std::string reason;
  if (!is_reachable(counter.buffer.device, &reason)) {
    refuse_device(counter.buffer, counter.name, reason);
  }
}

void check_counter(const Counter& counter) {
  const Buffer& buffer = counter.buffer;
  check_counter_device(counter);
  if (buffer.dtype != DType{kCodeInt, 64} || buffer.ndim != 0) {
    throw_type_error(std::string(counter.name) +
                     " must be an int, or a CUDA tensor of dtype int64 and shape (). Received: " +
                     dtype_name(buffer.dtype) + ", shape " + shape_text(buffer));
  }
  if (reinterpret_cast<uintptr_t>(buffer.data) % 8 != 0) {
    throw_buffer_error(std::string(counter.name) +
                       " is not aligned to its element size; make a copy first");
  }
}

// The counter is read while the pairs are written.
void check_counter_of(const Counter& counter, const Pair& pair, const PairRange& range) {
  if (pair.dst().device != counter.buffer.device) {
    throw_value_error(pair.dst_name() + " is on " + device_name(pair.dst().device) + ", " +
                      counter.name + " is on " + device_name(counter.buffer.device) +
                      ": all must be on one device");
  }
  const auto begin = reinterpret_cast<uintptr_t>(counter.buffer.data);
  if (range.dst_begin < begin + 8 && begin < range.dst_end) {
    throw_value_error(pair.dst_name() + " and " + counter.name + " overlap in memory");
  }
}

[[noreturn]] void refuse_read_only(const std::string& name) {
  throw_buffer_error(name + " is read-only and would be written");
}

[[noreturn]] void refuse_layout(const Pair& pair) {
  for (const bool is_src : {false, true}) {
    const Buffer& buffer = is_src ? pair.src() : pair.dst();
    if (is_dense(buffer)) continue;
    throw_buffer_error((is_src ? pair.src_name() : pair.dst_name()) + " is not contiguous: shape " +
                       shape_text(buffer) + ", strides " + strides_text(buffer) +
                       " in elements. Tensors must fill a solid block of "
                       "memory; make a contiguous copy first");
  }
  throw_buffer_error(pair.differ("strides", strides_text(pair.dst()), strides_text(pair.src())) +
                     " in elements: both must be laid out in memory alike");
}

void check_pair(Op op, const Pair& pair) {
  check_devices_of(pair);
  if (!same_shape(pair.dst(), pair.src())) {
    throw_value_error(pair.differ("shape", shape_text(pair.dst()), shape_text(pair.src())) +
                      ": the two must be equal");
  }
  if (pair.dst().read_only) refuse_read_only(pair.dst_name());
  if (op == Op::kSwap && pair.src().read_only) refuse_read_only(pair.src_name());
  if (pair.dst().numel > 0 && !same_dense_layout(pair.dst(), pair.src())) refuse_layout(pair);
}

void check_alignment(const Work& work, const Pair& pair) {
  const auto misaligned = [](const Buffer& buffer, int64_t alignment) {  // a power of two
    return (reinterpret_cast<uintptr_t>(buffer.data) & (alignment - 1)) != 0;
  };
  const bool dst = misaligned(pair.dst(), work.dst_alignment);
  if (!dst && !misaligned(pair.src(), work.src_alignment)) return;
  throw_buffer_error((dst ? pair.dst_name() : pair.src_name()) +
                     " is not aligned to its element size; make a copy first");
}

PairRange memory_of(const Pair& pair) {
  const auto dst = reinterpret_cast<uintptr_t>(pair.dst().data);
  const auto src = reinterpret_cast<uintptr_t>(pair.src().data);
  return {dst, dst + pair.dst().num_bytes(), src, src + pair.src().num_bytes(), pair.index};
}

}  // namespace

void check_devices(const TensorLists& lists, const Counter* counter) {
  check_lengths(lists);
  for (size_t i = 0; i < lists.dst.size(); ++i) check_devices_of({lists, i});
  if (counter != nullptr) check_counter_device(*counter);
}

Plan::Plan(Op op, const TensorLists& lists, const Weight& weight, const Counter* counter)
    : weight_(weight), cpu_(weight) {
  const size_t count = lists.dst.size();
  check_lengths(lists);
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

  std::vector<PairRange> ranges;
  ranges.reserve(count);
  cpu_.reserve(count);
  Work work = {};
  cpu::RangeKernel kernel = nullptr;
  for (size_t i = 0; i < count; ++i) {
    const Pair pair{lists, i};
    check_pair(op, pair);
    // Lists mostly hold one pair of types: looked up when it changes.
    if (i == 0 || pair.dst().dtype != lists.dst[i - 1].dtype ||
        pair.src().dtype != lists.src[i - 1].dtype) {
      work = find_work(op, effect, pair);
      kernel = cpu_kernel(work);
    }
    const int64_t numel = pair.dst().numel;
    if (numel == 0) continue;
    check_alignment(work, pair);
    ranges.push_back(memory_of(pair));
    if (counter != nullptr) check_counter_of(*counter, pair, ranges.back());
    // A tensor copied onto or swapped with itself stays as it is.
    const bool itself = pair.dst().data == pair.src().data && pair.dst().dtype == pair.src().dtype;
    if (writes_nothing || (itself && effect != Op::kLerp)) continue;
    if (pair.dst().device.type == DeviceType::kCuda) {
      add_cuda(work, pair, &cuda_);
    } else {
      cpu_.add(kernel, pair.dst().data, pair.src().data, numel * work.per_element, work.dst_step,
               work.src_step);
    }
  }
  check_overlap(ranges, lists.dst_name, lists.src_name, op == Op::kSwap);
}

void Plan::run(const cuda::Streams& streams) const {
  cuda_.run(weight_, streams);
  cpu_.run(cpu::threads_for(cpu_.bytes()));
}

}  // namespace swa_fast
