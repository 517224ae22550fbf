#include "cuda/launch.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.h"
#include "cuda/table.h"

namespace swa_fast::cuda {
namespace {

// A grid of this many blocks keeps the largest GPUs (under 200 multiprocessors of 4 to 8 blocks)
// busy for several rounds; beyond it, blocks take longer chunks, up to kMaxTiles, so that fewer of
// them look for their pair. Not measured: see docs/cuda.md.
constexpr int64_t kEnoughBlocks = 8192;
constexpr int64_t kMaxTiles = 8;

// Pairs with more elements are cut, so that the numbers of chunks fit into 32 bits. A multiple of
// every tile.
constexpr int64_t kMaxEntry = int64_t{1} << 40;

// Largest grid in x.
constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;

[[noreturn]] void fail(const Backend& backend, int error, const std::string& operation) {
  throw_runtime_error(operation + " failed: " + backend.error_text(error));
}

// Makes a device current while alive.
class DeviceGuard {
 public:
  DeviceGuard(const Backend& backend, int device) : backend_(backend) {
    const int error = backend.enter(device);
    if (error != 0)
      fail(backend, error, "making device cuda:" + std::to_string(device) + " current");
  }
  ~DeviceGuard() { backend_.leave(); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  const Backend& backend_;
};

// A table being filled, and the number of its chunks.
template <int kCapacity>
struct Filling {
  PairTable<kCapacity> table;
  int64_t chunks;

  bool takes(int64_t more) const { return table.pairs < kCapacity && chunks + more <= kMaxBlocks; }
  void add(void* dst, void* src, int64_t count, int64_t more) {
    const int i = table.pairs++;
    table.dst[i] = dst;
    table.src[i] = src;
    table.count[i] = count;
    table.first_chunk[i] = static_cast<uint32_t>(chunks);
    chunks += more;
  }
};

}  // namespace

Streams::Choice Streams::of(int device) const {
  for (const Choice& choice : choices_) {
    if (choice.device == device) return choice;
  }
  return {device, kLegacyStream, true};
}

bool Launch::Group::is_due(const Action* actions) const {
  const Action::Kind kind = actions[average].kind;
  return kind != Action::kNothing && (follows || kind != Action::kKeep);
}

void Launch::add(const Kernels& kernels, int device, void* dst, void* src, int64_t count,
                 int average, bool follows) {
  const auto serves = [&](const Group& g) {
    return g.kernels.blend == kernels.blend && g.device == device && g.average == average &&
           g.follows == follows;
  };
  // Pairs mostly come in runs that one group takes.
  size_t index = pairs_.empty() ? 0 : pairs_.back().group;
  if (index >= groups_.size() || !serves(groups_[index])) {
    const auto found = std::find_if(groups_.begin(), groups_.end(), serves);
    index = static_cast<size_t>(found - groups_.begin());
    if (found == groups_.end()) groups_.push_back({kernels, device, average, follows, {}, 0});
  }
  Group& group = groups_[index];
  const Kernel& kernel = *kernels.blend;
  const auto first = static_cast<uint32_t>(group.entries.size());
  const int64_t tile = tile_positions(kernel.dst_size, kernel.src_size);
  for (int64_t done = 0; done < count; done += kMaxEntry) {
    const int64_t part = std::min(count - done, kMaxEntry);
    group.entries.push_back({static_cast<char*>(dst) + done * kernel.dst_size,
                             static_cast<char*>(src) + done * kernel.src_size, part});
    group.tiles += (part + tile - 1) / tile;
  }
  pairs_.push_back(
      {static_cast<uint32_t>(index), first, static_cast<uint32_t>(group.entries.size()) - first});
}

bool Launch::set_source(size_t index, void* src) {
  const Place& place = pairs_[index];
  Group& group = groups_[place.group];
  const auto size = static_cast<uintptr_t>(group.kernels.blend->src_size);
  if (reinterpret_cast<uintptr_t>(src) % size != 0) return false;
  for (uint32_t i = 0; i < place.count; ++i) {
    group.entries[place.first + i].src =
        static_cast<char*>(src) + i * kMaxEntry * static_cast<int64_t>(size);
  }
  return true;
}

template <int kCapacity>
void Launch::run_group(const Backend& backend, const Group& group, const Kernel& kernel,
                       const Weight& weight, void* stream) const {
  const int64_t tile = tile_positions(kernel.dst_size, kernel.src_size);
  const int64_t tiles = std::clamp<int64_t>(group.tiles / kEnoughBlocks, 1, kMaxTiles);
  const bool in_double = kernel.dst_size == 8 || kernel.src_size == 8;
  Filling<kCapacity> filling;
  filling.table.chunk = static_cast<int32_t>(tile * tiles);
  filling.table.weight = in_double ? weight.f64 : static_cast<double>(weight.f32);
  filling.table.counter = counter_;
  filling.table.pairs = 0;
  filling.chunks = 0;
  const auto launch = [&] {
    const auto run = kCapacity == kSmallCapacity ? kernel.small : kernel.large;
    const int error = run(&filling.table, static_cast<uint32_t>(filling.chunks), stream);
    if (error != 0) {
      fail(backend, error,
           std::string("launching the ") + kernel.name + " kernel for " +
               std::to_string(filling.table.pairs) +
               " tensors on cuda:" + std::to_string(group.device));
    }
    filling.table.pairs = 0;
    filling.chunks = 0;
  };
  for (const Entry& entry : group.entries) {
    const Walk walk = walk_of(entry.dst, entry.src, kernel.dst_size, kernel.src_size);
    const int64_t chunks = count_chunks(entry.count, walk.lead, filling.table.chunk);
    if (!filling.takes(chunks)) launch();
    filling.add(entry.dst, entry.src, entry.count, chunks);
  }
  launch();
}

void Launch::run_groups(const Backend& backend, const Action* actions, const Streams& streams,
                        bool followers) const {
  for (const Group& group : groups_) {
    if (group.follows != followers || !group.is_due(actions)) continue;
    const Action& action = actions[group.average];
    const Kernel& kernel =
        action.kind == Action::kBlend ? *group.kernels.blend : *group.kernels.copy;
    const DeviceGuard guard(backend, group.device);
    void* const stream = streams.of(group.device).stream;
    // The arguments are copied whole at each launch, so short lists go in a short table.
    if (group.entries.size() > kSmallCapacity && backend.max_pairs > kSmallCapacity) {
      run_group<kLargeCapacity>(backend, group, kernel, action.weight, stream);
    } else {
      run_group<kSmallCapacity>(backend, group, kernel, action.weight, stream);
    }
  }
}

void Launch::run(const Action* actions, const Streams& streams) const {
  if (groups_.empty()) return;
  std::string reason;
  const Backend* const usable = backend(&reason);
  if (usable == nullptr) throw_runtime_error(reason);
  try {
    for (const bool followers : {false, true}) run_groups(*usable, actions, streams, followers);
  } catch (const Error&) {
    // What was queued may still be at work on memory that the caller is about to give back.
    wait(*usable, actions, streams);
    throw;
  }
  if (const Failure failure = wait(*usable, actions, streams)) {
    fail(*usable, failure.error, "waiting for the work on cuda:" + std::to_string(failure.device));
  }
}

Launch::Failure Launch::wait(const Backend& backend, const Action* actions,
                             const Streams& streams) const {
  Failure first = {};
  std::vector<int> waited;
  for (const Group& group : groups_) {
    const Streams::Choice choice = streams.of(group.device);
    const bool done = std::find(waited.begin(), waited.end(), group.device) != waited.end();
    if (!choice.synchronize || done || !group.is_due(actions)) continue;
    waited.push_back(group.device);
    int error = backend.enter(group.device);
    if (error == 0) {
      error = backend.synchronize(choice.stream);
      backend.leave();
    }
    if (error != 0 && !first) first = {error, group.device};
  }
  return first;
}

}  // namespace swa_fast::cuda
