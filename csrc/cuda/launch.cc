#include "cuda/launch.h"

#include <algorithm>
#include <string>

#include "cuda/device.h"
#include "cuda/table.h"

namespace swa_fast::cuda {
namespace {

constexpr size_t kHeaderWords = sizeof(Header) / 8;

int width_of(const Kernel& kernel) { return vector_width(kernel.dst_size, kernel.src_size); }

}  // namespace

bool Launch::Kind::operator==(const Kind& other) const {
  return kernels == other.kernels && device == other.device && turn == other.turn &&
         targets == other.targets &&
         std::equal(average.begin(), average.begin() + targets, other.average.begin());
}

bool Launch::Kind::is_due(int target, const Action* actions) const {
  const Action::Kind kind = actions[average[target]].kind;
  return kind != Action::kNothing && (turn != Turn::kAverage || kind != Action::kKeep);
}

bool Launch::Kind::is_due(const Action* actions) const {
  for (int target = 0; target < targets; ++target) {
    if (is_due(target, actions)) return true;
  }
  return false;
}

void Launch::add(const Kernels& kernels, int device, void* dst, void* src, int64_t count,
                 int average, Turn turn, bool starts) {
  if (starts) first_of_value_ = entries_.size();
  size_t index = first_of_value_;
  for (; index < entries_.size(); ++index) {
    const Entry& entry = entries_[index];
    if (entry.kind.kernels == kernels && entry.src == src && entry.kind.turn == turn &&
        entry.kind.targets < kMaxTargets) {
      break;
    }
  }
  if (index == entries_.size()) {
    entries_.push_back({{kernels, device, turn, 0, {}}, static_cast<char*>(src), {}, count});
  }
  Entry& entry = entries_[index];
  const auto target = static_cast<size_t>(entry.kind.targets++);
  entry.dst[target] = static_cast<char*>(dst);
  entry.kind.average[target] = average;
  pairs_.push_back(static_cast<uint32_t>(index));
}

void Launch::assign_entries() {
  for (; assigned_ < entries_.size(); ++assigned_) {
    const Kind& kind = entries_[assigned_].kind;
    // Entries mostly come in runs that one group takes.
    size_t index = group_of_.empty() ? 0 : group_of_.back();
    if (index >= groups_.size() || !(groups_[index].kind == kind)) {
      const auto found = std::find_if(groups_.begin(), groups_.end(),
                                      [&](const Group& group) { return group.kind == kind; });
      index = static_cast<size_t>(found - groups_.begin());
      if (found == groups_.end()) groups_.push_back({kind, {}, {}, true});
    }
    groups_[index].entries.push_back(static_cast<uint32_t>(assigned_));
    groups_[index].stale = true;
    group_of_.push_back(static_cast<uint32_t>(index));
  }
}

void Launch::finish() {
  if (entries_.empty()) return;
  assign_entries();
  std::string reason;
  const Backend* const usable = backend(&reason);
  if (usable == nullptr) throw_runtime_error(reason);
  for (Group& group : groups_) {
    if (group.stale) fill(&group, usable->arguments);
    group.stale = false;
  }
}

void Launch::fill(Group* group, size_t most_bytes) const {
  const Kernel& kernel = *group->kind.kernels.blend;
  const int targets = group->kind.targets;
  const int width = width_of(kernel);
  int64_t rows = 0;
  for (const uint32_t index : group->entries) {
    rows += (entries_[index].count + kMaxRow - 1) / kMaxRow;
  }
  const size_t bytes = bytes_for(kHeaderWords, row_words(targets), rows, most_bytes);
  group->tables.clear();
  for (const uint32_t index : group->entries) {
    const Entry& entry = entries_[index];
    int lead = lead_of(entry.src, kernel.src_size, width);
    for (int i = 0; i < targets; ++i) {
      if (lead_of(entry.dst[i], kernel.dst_size, width) != lead) lead = kApart;
    }
    for (int64_t done = 0; done < entry.count; done += kMaxRow) {
      const int64_t count = std::min(entry.count - done, kMaxRow);
      const int64_t chunks = count_chunks(count, lead, width);
      if (group->tables.empty() || !group->tables.back().takes(chunks)) {
        group->tables.emplace_back(bytes, kHeaderWords, row_words(targets));
      }
      uint64_t* const row = group->tables.back().add(count, lead, chunks);
      row[1] = address_word(entry.src + done * kernel.src_size);
      for (int i = 0; i < targets; ++i) {
        row[2 + i] = address_word(entry.dst[i] + done * kernel.dst_size);
      }
    }
  }
}

bool Launch::suits(size_t index, const void* src) const {
  const auto size = static_cast<uintptr_t>(entries_[pairs_[index]].kind.kernels.blend->src_size);
  return reinterpret_cast<uintptr_t>(src) % size == 0;
}

void Launch::set_source(size_t index, void* src) {
  const uint32_t entry = pairs_[index];
  entries_[entry].src = static_cast<char*>(src);
  groups_[group_of_[entry]].stale = true;
}

void Launch::run_group(const Backend& backend, Group* group, const Action* actions,
                       const Gate* gate, void* stream) const {
  const Kind& kind = group->kind;
  for (const bool copies : {false, true}) {
    const Kernel& kernel = copies ? *kind.kernels.copy : *kind.kernels.blend;
    const bool in_double = kernel.dst_size == 8 || kernel.src_size == 8;
    int64_t* const counter = gate != nullptr ? gate->counts() : counter_;
    Header header = {counter, 0, kind.targets, 0, gate != nullptr ? 1 : 0, {}};
    for (int i = 0; i < kind.targets; ++i) {
      const Action& action = actions[kind.average[i]];
      const bool copied = kind.turn != Turn::kAverage || action.kind == Action::kCopy;
      if (copies != copied || !kind.is_due(i, actions)) continue;
      const double scalar = in_double ? action.weight.f64 : static_cast<double>(action.weight.f32);
      int32_t counted = 0;
      if (gate != nullptr && kind.turn == Turn::kAverage) {
        counted = action.is_mean ? kind.average[i] + 1 : -(kind.average[i] + 1);
      } else if (counter_ != nullptr && kind.turn == Turn::kAverage && kind.average[i] == 0) {
        counted = 1;
      }
      header.update[header.updates++] = {scalar, i, counted};
    }
    if (header.updates == 0) continue;
    for (Rows& rows : group->tables) {
      header.rows = rows.count();
      memcpy(rows.words(), &header, sizeof(header));
      launch_rows(backend, kernel, rows, kind.device, header.updates, stream);
    }
  }
}

int Launch::only_device() const {
  int device = -1;
  for (const Group& group : groups_) {
    if (device >= 0 && device != group.kind.device) return -1;
    device = group.kind.device;
  }
  return device;
}

void Launch::count_snapshot(const Backend& backend, const Action* actions, const Gate& gate,
                            int device, void* stream) const {
  Counting counting = {gate.counts(), 0, gate.averages};
  for (int average = 0; average < gate.averages; ++average) {
    if (actions[average].kind != Action::kNothing) counting.due |= uint64_t{1} << average;
  }
  const int error = backend.kernels->count(&counting, 1, stream);
  if (error == 0) return;
  fail(backend, error, "launching the count kernel on cuda:" + std::to_string(device));
}

void Launch::run(const Action* actions, const Streams& streams, const Gate* gate,
                 FiniteCheck* check) {
  std::vector<int> devices;
  for (const Group& group : groups_) {
    if (group.kind.is_due(actions)) add_device(&devices, group.kind.device);
  }
  if (gate != nullptr && devices.empty()) add_device(&devices, only_device());
  queue_and_wait(devices, streams, [&](const Backend& backend) {
    if (check != nullptr) {
      const DeviceGuard guard(backend, devices[0]);
      check->run(backend, *gate, devices[0], streams.of(devices[0]).stream);
    }
    for (const Turn turn : {Turn::kAverage, Turn::kCopy, Turn::kView}) {
      for (Group& group : groups_) {
        if (group.kind.turn != turn || !group.kind.is_due(actions)) continue;
        const DeviceGuard guard(backend, group.kind.device);
        run_group(backend, &group, actions, gate, streams.of(group.kind.device).stream);
      }
    }
    if (gate != nullptr) {
      const DeviceGuard guard(backend, devices[0]);
      count_snapshot(backend, actions, *gate, devices[0], streams.of(devices[0]).stream);
    }
  });
}

}  // namespace swa_fast::cuda
