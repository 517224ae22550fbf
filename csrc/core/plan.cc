#include "core/plan.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/layout.h"
#include "cpu/isa.h"
#include "cpu/threads.h"

namespace swa_fast {
namespace {

struct CpuKernels {
  cpu::RangeKernel blend;
  cpu::RangeKernel copy;
};

CpuKernels cpu_kernels(Op op, const Work& work) {
  const cpu::KernelTable& table = cpu::active_kernels();
  if (!work.floating) {
    const cpu::RangeKernel kernel = op == Op::kSwap ? table.swap_bytes : table.copy_bytes;
    return {kernel, kernel};
  }
  const int dst = static_cast<int>(work.dst);
  const int src = static_cast<int>(work.src);
  const cpu::RangeKernel cast = table.cast[dst][src];
  switch (op) {
    case Op::kLerp:
      return {table.lerp[dst][src], cast};
    case Op::kTfaMean:
      return {table.tfa_mean[dst][src], cast};
    default:
      return {cast, cast};
  }
}

struct CudaWork {
  cuda::Kernels kernels;
  int64_t count;
};

CudaWork cuda_work(Op op, const Work& work, const Pair& pair) {
  std::string reason;
  const cuda::KernelTable& table = *cuda::backend(&reason)->kernels;  // was there a moment ago
  const Buffer& dst = pair.dst();
  const Buffer& src = pair.src();
  const bool same = dst.dtype == src.dtype;
  const bool averages = op == Op::kLerp || op == Op::kTfaMean;
  if (work.floating && (averages || !same)) {
    const int to = static_cast<int>(work.dst);
    const int from = static_cast<int>(work.src);
    const cuda::Kernel* const cast = &table.cast[to][from];
    const cuda::Kernel* const blend = op == Op::kLerp      ? &table.lerp[to][from]
                                      : op == Op::kTfaMean ? &table.tfa_mean[to][from]
                                                           : cast;
    return {{blend, cast}, dst.numel * work.per_element};
  }
  // Bits are moved in the largest unit, up to 8 bytes, that the element and both addresses allow.
  const auto addresses =
      reinterpret_cast<uintptr_t>(dst.data) | reinterpret_cast<uintptr_t>(src.data);
  const int unit = __builtin_ctzll(addresses | static_cast<uintptr_t>(dst.dtype.itemsize()) | 8);
  const cuda::Kernel* const kernel = op == Op::kSwap ? &table.swap[unit] : &table.copy[unit];
  return {{kernel, kernel}, dst.num_bytes() >> unit};
}

bool same_place(const Pair& pair) {
  return pair.dst().data == pair.src().data && pair.dst().dtype == pair.src().dtype;
}

}  // namespace

void check_devices(const TensorLists& lists, const Counter* counter) {
  check_lengths(lists);
  for (size_t i = 0; i < lists.dst.size(); ++i) check_devices_of({lists, i});
  if (counter != nullptr) check_counter_device(*counter);
}

Plan::Plan(bool kept, const Counter* counter) : kept_(kept), counter_(counter) {
  if (counter == nullptr) return;
  check_counter(*counter);
  cuda_.set_counter(static_cast<int64_t*>(counter->buffer.data));
}

// A list of targets on the way through the values.
struct Plan::Cursor {
  const Targets& targets;
  TensorLists lists;
  size_t first;  // number of the list's first pair in the call
  size_t next = 0;
  size_t next_copied = 0;
  // Lists mostly hold one pair of types: the work is looked up when that changes.
  Op op = Op::kCopy;
  DType dst_type = {kCodeOpaque, 0};
  DType src_type = {kCodeOpaque, 0};
  Work work = {};

  // Where in the list the target of `value` is, or -1; asked for each value in turn.
  int64_t take(size_t value) {
    if (next >= lists.dst.size() || (!targets.of.empty() && targets.of[next] != value)) return -1;
    return static_cast<int64_t>(next++);
  }
  bool is_copied(size_t item) {
    if (targets.role != Targets::kAverage) return true;
    if (next_copied >= targets.copied.size() || targets.copied[next_copied] != item) return false;
    ++next_copied;
    return true;
  }
};

void Plan::add(Op op, const char* values_name, const std::vector<Buffer>& values,
               const std::vector<Targets>& targets) {
  swaps_ = swaps_ || op == Op::kSwap;
  const size_t count = values.size();
  std::vector<Cursor> cursors;
  cursors.reserve(targets.size());
  for (const Targets& target : targets) {
    const bool is_view = target.role == Targets::kView;
    const Targets* const shown = is_view ? &targets[static_cast<size_t>(target.shown)] : nullptr;
    const TensorLists lists = {target.name, is_view ? shown->name : values_name, target.buffers,
                               is_view ? shown->buffers : values};
    if (target.of.empty()) check_lengths(lists);
    cursors.push_back({target, lists, pairs_});
    names_.push_back({pairs_, lists.dst_name, lists.src_name, target.of});
    pairs_ += target.buffers.size();
  }
  written_.reserve(op == Op::kSwap ? 2 * pairs_ : pairs_);
  read_.reserve(pairs_);
  cpu_.reserve(pairs_);
  if (kept_) {
    values_.reserve(values_.size() + count);
    places_.reserve(pairs_);
  }
  for (size_t i = 0; i < count; ++i) {
    if (kept_) {
      finite_.add(values_.size(), values[i]);
      values_.add(values[i]);
    }
    bool starts = true;
    for (Cursor& cursor : cursors) {
      const int64_t item = cursor.take(i);
      if (item < 0) continue;
      const Pair pair(cursor.lists, static_cast<size_t>(item), i);
      const bool follows = cursor.is_copied(pair.dst_index);
      const Op of = follows ? Op::kCopy : op;
      check_pair(of, pair);
      if (of != cursor.op || pair.dst().dtype != cursor.dst_type ||
          pair.src().dtype != cursor.src_type) {
        cursor.op = of;
        cursor.dst_type = pair.dst().dtype;
        cursor.src_type = pair.src().dtype;
        cursor.work = find_work(of, pair);
      }
      if (pair.dst().numel == 0) continue;
      check_alignment(cursor.work, pair);
      add_ranges(of, pair, cursor.targets.role,
                 static_cast<uint32_t>(cursor.first + pair.dst_index));
      if (counter_ != nullptr) check_counter_of(*counter_, pair, written_.back());
      // A tensor copied onto or swapped with itself stays as it is.
      const bool moves_bits = of == Op::kCopy || of == Op::kSwap;
      if (moves_bits && same_place(pair) && !kept_) continue;
      add_pair(of, pair, cursor.targets, follows, cursor.work, starts);
      starts = false;
    }
  }
}

void Plan::add_ranges(Op op, const Pair& pair, Targets::Role role, uint32_t number) {
  const auto range = [number](const Buffer& buffer, int32_t side) -> Range {
    const auto begin = reinterpret_cast<uintptr_t>(buffer.data);
    return {begin, begin + static_cast<uintptr_t>(buffer.num_bytes()), number, side};
  };
  const Range dst = range(pair.dst(), 0);
  const Range src = range(pair.src(), 1);
  const bool same = dst.begin == src.begin && dst.end == src.end;
  if (op == Op::kSwap && !same) written_.push_back(src);
  // What a view reads is a target of its own group, and is listed as that.
  if (op != Op::kSwap && role != Targets::kView) read_.push_back(src);
  written_.push_back(dst);
}

void Plan::add_pair(Op op, const Pair& pair, const Targets& target, bool follows, const Work& work,
                    bool starts) {
  const bool on_cuda = pair.dst().device.type == DeviceType::kCuda;
  if (kept_) {
    places_.push_back({work, on_cuda, target.role != Targets::kView,
                       static_cast<uint32_t>(values_.size()) - 1,
                       on_cuda ? cuda_.size() : cpu_.size()});
  }
  if (on_cuda) {
    const CudaWork device = cuda_work(op, work, pair);
    const cuda::Turn turn = target.role == Targets::kView ? cuda::Turn::kView
                            : follows                     ? cuda::Turn::kCopy
                                                          : cuda::Turn::kAverage;
    cuda_.add(device.kernels, pair.dst().device.index, pair.dst().data, pair.src().data,
              device.count, target.average, turn, starts);
    return;
  }
  const CpuKernels kernels = cpu_kernels(op, work);
  cpu_.add({kernels.blend, kernels.copy, static_cast<char*>(pair.dst().data),
            static_cast<char*>(pair.src().data), pair.dst().numel * work.per_element, work.dst_step,
            work.src_step, 0, 0, static_cast<int16_t>(target.average), follows},
           starts);
}

void Plan::prepare() {
  check_overlap(kept_ ? written_ : std::move(written_), read_,
                [this](const Range& range) { return name_of(range); });
  cpu_.finish();
  cuda_.finish();
}

std::string Plan::name_of(const Range& range) const {
  const Names* names = &names_.front();
  for (const Names& candidate : names_) {
    if (candidate.first <= range.pair) names = &candidate;
  }
  const size_t item = range.pair - names->first;
  if (range.side == 0) return item_name(names->dst, item);
  return item_name(names->src, names->of.empty() ? item : names->of[item]);
}

bool Plan::matches(const std::vector<Buffer>& values) {
  if (values.size() != values_.size()) return false;
  bool moved = false;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!values_.is_alike(i, values[i])) return false;
    moved = moved || values_.data(i) != values[i].data;
  }
  return !moved || rebind(values);
}

bool Plan::rebind(const std::vector<Buffer>& values) {
  if (swaps_) return false;  // its values are written too
  const auto address = [&](size_t i) { return reinterpret_cast<uintptr_t>(values[i].data); };
  for (const Place& place : places_) {
    const auto alignment = static_cast<uintptr_t>(place.work.src_alignment);
    if (!place.reads_value) continue;
    void* const data = values[place.value].data;
    if (data == nullptr || address(place.value) % alignment != 0) return false;
    if (place.on_cuda && !cuda_.suits(place.at, data)) return false;  // a kernel for wider units
  }
  // The new ranges are checked before anything is taken over. Those that are read stand in the
  // order of the places that read a value.
  std::vector<Range> read = read_;
  size_t next = 0;
  for (const Place& place : places_) {
    if (!place.reads_value) continue;
    Range& range = read[next++];
    range.end += address(place.value) - range.begin;
    range.begin = address(place.value);
  }
  check_overlap(written_, read, [this](const Range& range) { return name_of(range); });
  for (const Place& place : places_) {
    if (!place.reads_value) continue;
    void* const data = values[place.value].data;
    if (place.on_cuda) {
      cuda_.set_source(place.at, data);
    } else {
      cpu_.at(place.at).src = static_cast<char*>(data);
    }
  }
  cuda_.finish();
  read_.swap(read);
  for (size_t i = 0; i < values.size(); ++i) values_.move(i, values[i].data);
  finite_.move(values);
  return true;
}

cuda::Gate Plan::check_gate(const char* name, const Buffer& counts, int averages) const {
  const int device = cuda_.only_device();
  const bool fits = counts.dtype == DType{kCodeInt, 64} && counts.ndim == 1 &&
                    counts.numel == cuda::gate_words(averages) && is_dense(counts) &&
                    averages <= cuda::kMostGated;
  if (!fits) {
    throw_value_error(std::string(name) + " must be an int64 tensor of " +
                      std::to_string(cuda::gate_words(averages)) + " elements for " +
                      std::to_string(averages) + " averages, of which there may be " +
                      std::to_string(cuda::kMostGated) + ". Received: " + dtype_name(counts.dtype) +
                      ", shape " + shape_text(counts));
  }
  if (!cpu_.empty() || device < 0 || counts.device.type != DeviceType::kCuda ||
      counts.device.index != device) {
    throw_value_error(std::string(name) + " is on " + device_name(counts.device) +
                      ": it must be on one CUDA device with all averages and values");
  }
  const auto begin = reinterpret_cast<uintptr_t>(counts.data);
  for (const std::vector<Range>* ranges : {&written_, &read_}) {
    for (const Range& range : *ranges) {
      if (range.begin < begin + static_cast<uintptr_t>(counts.num_bytes()) && begin < range.end) {
        throw_value_error(name_of(range) + " and " + name + " overlap in memory");
      }
    }
  }
  return {static_cast<int64_t*>(counts.data), averages};
}

void Plan::run_gated(const Action* actions, const cuda::Streams& streams, const cuda::Gate& gate) {
  cuda_.run(actions, streams, &gate, &finite_);
}

void Plan::run(const Action* actions, const cuda::Streams& streams, int own_threads) {
  cuda_.run(actions, streams);
  if (own_threads > 0) {
    cpu_.run_on_own_threads(actions, std::min(own_threads, cpu::threads_for(cpu_.bytes(actions))));
    return;
  }
  const cpu::CallThreads threads(cpu_.bytes(actions));
  cpu_.run(actions, threads.count());
}

}  // namespace swa_fast
