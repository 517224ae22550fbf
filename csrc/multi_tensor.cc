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

[[noreturn]] void refuse_device(const Buffer& buffer, const std::string& name) {
  if (buffer.device.type == DeviceType::kCuda) {
    throw_runtime_error(name + " is on " + device_name(buffer.device) +
                        ", and this build of swa_fast has no CUDA support: move the tensors to "
                        "the CPU first");
  }
  throw_runtime_error(name + " is on a device that swa_fast cannot reach (" +
                      device_name(buffer.device) + "): move the tensors to the CPU first");
}

void check_devices(const Pair& pair) {
  if (pair.dst().device != pair.src().device) {
    throw_value_error(pair.dst_name() + " is on " + device_name(pair.dst().device) + ", " +
                      pair.src_name() + " is on " + device_name(pair.src().device) +
                      ": the two must be on one device");
  }
  if (pair.dst().device.type != DeviceType::kCpu) refuse_device(pair.dst(), pair.dst_name());
}

// How a kernel steps through a pair of the given element types.
struct Work {
  cpu::RangeKernel kernel;
  int per_element;   // of what the kernel counts, in one element of the tensor
  int64_t dst_step;  // bytes
  int64_t src_step;
};

[[noreturn]] void refuse_average(const std::string& name, DType dtype) {
  throw_type_error(name + " has dtype " + dtype_name(dtype) +
                   ": only floating-point tensors can be averaged (copy_ takes any type)");
}

// Checks the rules on element types that `rules` sets, and finds the kernel that does `effect`.
Work find_work(Op rules, Op effect, const Pair& pair) {
  const DType dst = pair.dst().dtype;
  const DType src = pair.src().dtype;
  const FloatingView dst_view = floating_view(dst);
  const FloatingView src_view = floating_view(src);
  if (rules == Op::kLerp) {
    if (!dst_view.floating) refuse_average(pair.dst_name(), dst);
    if (!src_view.floating) refuse_average(pair.src_name(), src);
  }
  const cpu::KernelTable& kernels = cpu::active_kernels();
  if (dst == src && effect != Op::kLerp) {
    const int bytes = static_cast<int>(dst.itemsize());
    return {effect == Op::kSwap ? kernels.swap_bytes : kernels.copy_bytes, bytes, 1, 1};
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
  const auto& table = effect == Op::kLerp ? kernels.lerp : kernels.cast;
  return {table[static_cast<int>(dst_view.storage)][static_cast<int>(src_view.storage)],
          dst_view.per_element, dst.itemsize() / dst_view.per_element,
          src.itemsize() / src_view.per_element};
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
  check_devices(pair);
  if (!same_shape(pair.dst(), pair.src())) {
    throw_value_error(pair.differ("shape", shape_text(pair.dst()), shape_text(pair.src())) +
                      ": the two must be equal");
  }
  if (pair.dst().read_only) refuse_read_only(pair.dst_name());
  if (op == Op::kSwap && pair.src().read_only) refuse_read_only(pair.src_name());
  if (pair.dst().numel > 0 && !same_dense_layout(pair.dst(), pair.src())) refuse_layout(pair);
}

// Kernels on floating types read and write whole numbers, which C++ wants aligned; byte-wise
// copies and swaps do not care.
void check_alignment(const Work& work, const Pair& pair) {
  const auto misaligned = [](const Buffer& buffer, int64_t step) {
    return (reinterpret_cast<uintptr_t>(buffer.data) & (step - 1)) != 0;  // a power of two
  };
  const bool dst = misaligned(pair.dst(), work.dst_step);
  if (!dst && !misaligned(pair.src(), work.src_step)) return;
  throw_buffer_error((dst ? pair.dst_name() : pair.src_name()) +
                     " is not aligned to its element size; make a copy first");
}

PairRange memory_of(const Pair& pair) {
  const auto dst = reinterpret_cast<uintptr_t>(pair.dst().data);
  const auto src = reinterpret_cast<uintptr_t>(pair.src().data);
  return {dst, dst + pair.dst().num_bytes(), src, src + pair.src().num_bytes(), pair.index};
}

}  // namespace

Plan::Plan(Op op, const TensorLists& lists, const Weight& weight) : cpu_(weight) {
  const size_t count = lists.dst.size();
  if (count != lists.src.size()) {
    throw_value_error(std::string(lists.dst_name) + " has " + std::to_string(count) + " tensors, " +
                      lists.src_name + " has " + std::to_string(lists.src.size()) +
                      ": the lists must be equally long");
  }
  // A lerp at either end of its weight is no arithmetic at all; its rules stay those of a lerp.
  // Bits are compared: to a thread that reads subnormals as zero, every subnormal equals 0.0.
  const uint64_t bits = bit_cast<uint64_t>(weight.f64);
  const Op effect = op == Op::kLerp && bits == bit_cast<uint64_t>(1.0) ? Op::kCopy : op;
  const bool writes_nothing = op == Op::kLerp && bits << 1 == 0;  // 0 or -0

  std::vector<PairRange> ranges;
  ranges.reserve(count);
  cpu_.reserve(count);
  Work work = {};
  for (size_t i = 0; i < count; ++i) {
    const Pair pair{lists, i};
    check_pair(op, pair);
    // Lists mostly hold one pair of types: looked up when it changes.
    if (i == 0 || pair.dst().dtype != lists.dst[i - 1].dtype ||
        pair.src().dtype != lists.src[i - 1].dtype) {
      work = find_work(op, effect, pair);
    }
    const int64_t numel = pair.dst().numel;
    if (numel == 0) continue;
    check_alignment(work, pair);
    ranges.push_back(memory_of(pair));
    // A tensor copied onto or swapped with itself stays as it is.
    const bool itself = pair.dst().data == pair.src().data && pair.dst().dtype == pair.src().dtype;
    if (writes_nothing || (itself && effect != Op::kLerp)) continue;
    cpu_.add(work.kernel, pair.dst().data, pair.src().data, numel * work.per_element, work.dst_step,
             work.src_step);
  }
  check_overlap(ranges, lists.dst_name, lists.src_name, op == Op::kSwap);
}

void Plan::run() const noexcept { cpu_.run(cpu::threads_for(cpu_.bytes())); }

}  // namespace swa_fast
