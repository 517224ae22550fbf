#include "core/rules.h"

#include "core/layout.h"
#include "cuda/backend.h"

namespace swa_fast {
namespace {

bool is_reachable(const Device& device, std::string* reason) {
  return device.type == DeviceType::kCpu ||
         (device.type == DeviceType::kCuda && cuda::backend(reason) != nullptr);
}

[[noreturn]] void refuse_device(const Buffer& buffer, const std::string& name,
                                const std::string& reason, Refusal refusal = {"device", -1}) {
  if (buffer.device.type == DeviceType::kCuda) {
    throw_runtime_error(name + " is on " + device_name(buffer.device) + ", and " + reason, refusal);
  }
  throw_runtime_error(name + " is on a device that swa_fast cannot reach (" +
                          device_name(buffer.device) + "): move the tensors to the CPU first",
                      refusal);
}

[[noreturn]] void refuse_average(const std::string& name, DType dtype, const Refusal& refusal) {
  throw_type_error(name + " has dtype " + dtype_name(dtype) +
                       ": only floating-point tensors can be averaged (copy_ takes any type)",
                   refusal);
}

[[noreturn]] void refuse_read_only(const std::string& name, const Refusal& refusal) {
  throw_buffer_error(name + " is read-only and would be written", refusal);
}

[[noreturn]] void refuse_no_memory(const std::string& name, const Pair& pair) {
  throw_buffer_error(name + " has no memory: its storage was freed", pair.refusal("memory"));
}

[[noreturn]] void refuse_layout(const Pair& pair) {
  for (const bool is_src : {false, true}) {
    const Buffer& buffer = is_src ? pair.src() : pair.dst();
    if (is_dense(buffer)) continue;
    throw_buffer_error((is_src ? pair.src_name() : pair.dst_name()) + " is not contiguous: shape " +
                           shape_text(buffer) + ", strides " + strides_text(buffer) +
                           " in elements. Tensors must fill a solid block of "
                           "memory; make a contiguous copy first",
                       pair.refusal("layout"));
  }
  throw_buffer_error(pair.differ("strides", strides_text(pair.dst()), strides_text(pair.src())) +
                         " in elements: both must be laid out in memory alike",
                     pair.refusal("layout"));
}

}  // namespace

void check_lengths(const TensorLists& lists) {
  if (lists.dst.size() == lists.src.size()) return;
  throw_value_error(std::string(lists.dst_name) + " has " + std::to_string(lists.dst.size()) +
                        " tensors, " + lists.src_name + " has " + std::to_string(lists.src.size()) +
                        ": the lists must be equally long",
                    {"length", -1});
}

void check_devices_of(const Pair& pair) {
  if (pair.dst().device != pair.src().device) {
    throw_value_error(pair.dst_name() + " is on " + device_name(pair.dst().device) + ", " +
                          pair.src_name() + " is on " + device_name(pair.src().device) +
                          ": the two must be on one device",
                      pair.refusal("device"));
  }
  std::string reason;
  if (!is_reachable(pair.dst().device, &reason)) {
    refuse_device(pair.dst(), pair.dst_name(), reason, pair.refusal("device"));
  }
}

Work find_work(Op op, const Pair& pair) {
  const DType dst = pair.dst().dtype;
  const DType src = pair.src().dtype;
  const FloatingView dst_view = floating_view(dst);
  const FloatingView src_view = floating_view(src);
  const bool averages = op == Op::kLerp || op == Op::kTfaMean;
  const Refusal refusal = pair.refusal("dtype");
  if (averages) {
    if (!dst_view.floating) refuse_average(pair.dst_name(), dst, refusal);
    if (!src_view.floating) refuse_average(pair.src_name(), src, refusal);
  }
  if (dst != src) {
    const std::string differ = pair.differ("dtype", dtype_name(dst), dtype_name(src));
    if (op == Op::kSwap) {
      throw_type_error(differ + ": swapped tensors must have the same dtype", refusal);
    }
    if (!dst_view.floating || !src_view.floating) {
      throw_type_error(differ + ": conversion is between floating-point types only", refusal);
    }
    if (dst_view.per_element != src_view.per_element) {
      throw_type_error(differ + ": complex tensors pair with complex tensors only", refusal);
    }
  } else if (op == Op::kSwap || !dst_view.floating) {
    const int bytes = static_cast<int>(dst.itemsize());
    return {false, dst_view.storage, src_view.storage, bytes, 1, 1, 1, 1};
  }
  const auto dst_step = static_cast<int32_t>(dst.itemsize() / dst_view.per_element);
  const auto src_step = static_cast<int32_t>(src.itemsize() / src_view.per_element);
  const bool bits = dst == src && !averages;
  return {true,     dst_view.storage, src_view.storage,    dst_view.per_element,
          dst_step, src_step,         bits ? 1 : dst_step, bits ? 1 : src_step};
}

void check_pair(Op op, const Pair& pair) {
  check_devices_of(pair);
  if (!same_shape(pair.dst(), pair.src())) {
    throw_value_error(pair.differ("shape", shape_text(pair.dst()), shape_text(pair.src())) +
                          ": the two must be equal",
                      pair.refusal("shape"));
  }
  const Refusal read_only = pair.refusal("read-only");
  if (pair.dst().read_only) refuse_read_only(pair.dst_name(), read_only);
  if (op == Op::kSwap && pair.src().read_only) refuse_read_only(pair.src_name(), read_only);
  if (pair.dst().numel > 0) {
    if (pair.dst().data == nullptr) refuse_no_memory(pair.dst_name(), pair);
    if (pair.src().data == nullptr) refuse_no_memory(pair.src_name(), pair);
  }
  if (pair.dst().numel > 0 && !same_dense_layout(pair.dst(), pair.src())) refuse_layout(pair);
}

void check_alignment(const Work& work, const Pair& pair) {
  const auto misaligned = [](const Buffer& buffer, int64_t alignment) {  // a power of two
    return (reinterpret_cast<uintptr_t>(buffer.data) & (alignment - 1)) != 0;
  };
  const bool dst = misaligned(pair.dst(), work.dst_alignment);
  if (!dst && !misaligned(pair.src(), work.src_alignment)) return;
  throw_buffer_error((dst ? pair.dst_name() : pair.src_name()) +
                         " is not aligned to its element size; make a copy first",
                     pair.refusal("alignment"));
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

void check_counter_of(const Counter& counter, const Pair& pair, const Range& written) {
  if (pair.dst().device != counter.buffer.device) {
    throw_value_error(pair.dst_name() + " is on " + device_name(pair.dst().device) + ", " +
                      counter.name + " is on " + device_name(counter.buffer.device) +
                      ": all must be on one device");
  }
  const auto begin = reinterpret_cast<uintptr_t>(counter.buffer.data);
  if (written.begin < begin + 8 && begin < written.end) {
    throw_value_error(pair.dst_name() + " and " + counter.name + " overlap in memory");
  }
}

}  // namespace swa_fast
