// Groups of one value and several targets: what each target becomes under each action, to the bit
// what its kernel alone makes of the whole tensor, and in which order the memory is taken.
#include <algorithm>
#include <array>
#include <cstring>

#include "cases.h"
#include "check.h"
#include "core/weight.h"
#include "cpu/launch.h"
#include "storage_pairs.h"

using swa_fast::Action;
using swa_fast::cpu::KernelTable;
using swa_fast::cpu::Launch;
using swa_fast::cpu::RangeKernel;
using swa_fast::cpu::Segment;

namespace {

constexpr int kNumTypes = swa_fast::kNumStorageTypes;
constexpr int64_t kBlockBytes = 16 * 1024;

// Memory for `count` elements that begin `offset` elements behind a cache line's start, random.
struct Memory {
  std::vector<unsigned char> bytes;
  size_t at = 0;

  unsigned char* data() { return bytes.data() + at; }
};

template <class T>
Memory random_memory(int64_t count, int64_t offset, cases::Random& random) {
  const auto size = static_cast<size_t>(count) * sizeof(T);
  Memory memory{std::vector<unsigned char>(size + 64 + static_cast<size_t>(offset) * sizeof(T))};
  const auto address = reinterpret_cast<uintptr_t>(memory.bytes.data());
  memory.at = (64 - address % 64) % 64 + static_cast<size_t>(offset) * sizeof(T);
  const std::vector<T> values = cases::random_values<T>(static_cast<size_t>(count), random);
  std::memcpy(memory.data(), values.data(), size);
  return memory;
}

Memory random_memory(int type, int64_t count, int64_t offset, cases::Random& random) {
  Memory memory;
  for_each_storage([&](auto storage) {
    using T = typename decltype(storage)::Type;
    if (storage.index == type) memory = random_memory<T>(count, offset, random);
  });
  return memory;
}

int size_of(int type) {
  int size = 0;
  for_each_storage([&](auto storage) {
    if (storage.index == type) size = sizeof(typename decltype(storage)::Type);
  });
  return size;
}

// One target of a group. Followers are copied whenever their average is due.
struct Target {
  int type;
  int average;
  bool follows;
  int shown;  // index of the target that it is read from, or -1 for the value
};

// Values of one type, and for each the memory of all targets.
struct Groups {
  int value_type;
  std::vector<Target> targets;
  std::vector<int64_t> counts;
  std::vector<Memory> values;
  std::vector<std::vector<Memory>> memory;  // by value, by target

  int source_type(size_t target) const {
    const int shown = targets[target].shown;
    return shown < 0 ? value_type : targets[static_cast<size_t>(shown)].type;
  }
  unsigned char* source(size_t value, size_t target) {
    const int shown = targets[target].shown;
    return shown < 0 ? values[value].data() : memory[value][static_cast<size_t>(shown)].data();
  }
  // Everything that is written, in a row.
  std::vector<unsigned char> contents() {
    std::vector<unsigned char> all;
    for (auto& of_value : memory) {
      for (Memory& target : of_value) {
        all.insert(all.end(), target.bytes.begin(), target.bytes.end());
      }
    }
    return all;
  }
};

Groups make_groups(int value_type, std::vector<Target> targets, cases::Random& random) {
  const int64_t block = kBlockBytes / size_of(value_type);
  Groups groups = {value_type, std::move(targets), {}, {}, {}};
  groups.counts = {1, 64, 65, block - 1, block, block + 1, 2 * block + 777, 3};
  for (size_t v = 0; v < groups.counts.size(); ++v) {
    const auto offset = static_cast<int64_t>(v) % 5;
    groups.values.push_back(random_memory(value_type, groups.counts[v], offset, random));
    groups.memory.emplace_back();
    for (size_t t = 0; t < groups.targets.size(); ++t) {
      groups.memory.back().push_back(random_memory(groups.targets[t].type, groups.counts[v],
                                                   static_cast<int64_t>(v + 3 * t) % 7, random));
    }
  }
  return groups;
}

RangeKernel blend_of(const KernelTable& table, const Groups& groups, size_t t) {
  const Target& target = groups.targets[t];
  const auto& kernels = target.follows ? table.cast : table.lerp;
  return kernels[target.type][groups.source_type(t)];
}

// By the launch, on `threads` threads.
std::vector<unsigned char> launched(Groups groups, const KernelTable& table, const Action* actions,
                                    int threads) {
  // The copied memory lies elsewhere, at another distance from a cache line's start.
  Launch launch;
  for (size_t v = 0; v < groups.values.size(); ++v) {
    for (size_t t = 0; t < groups.targets.size(); ++t) {
      const Target& target = groups.targets[t];
      const int from = groups.source_type(t);
      launch.add(
          {blend_of(table, groups, t), table.cast[target.type][from],
           reinterpret_cast<char*>(groups.memory[v][t].data()),
           reinterpret_cast<char*>(groups.source(v, t)), groups.counts[v], size_of(target.type),
           size_of(from), 0, 0, static_cast<int16_t>(target.average), target.follows},
          t == 0);
    }
  }
  launch.finish();
  launch.run(actions, threads);
  return groups.contents();
}

// By each kernel alone, tensor after tensor.
std::vector<unsigned char> one_by_one(Groups groups, const KernelTable& table,
                                      const Action* actions) {
  for (size_t v = 0; v < groups.values.size(); ++v) {
    for (size_t t = 0; t < groups.targets.size(); ++t) {
      const Target& target = groups.targets[t];
      const Action& action = actions[target.average];
      const RangeKernel cast = table.cast[target.type][groups.source_type(t)];
      RangeKernel kernel = nullptr;
      if (action.kind == Action::kBlend) kernel = blend_of(table, groups, t);
      if (action.kind == Action::kCopy) kernel = cast;
      if (action.kind == Action::kKeep && target.follows) kernel = cast;
      if (kernel == nullptr) continue;
      kernel(groups.memory[v][t].data(), groups.source(v, t), groups.counts[v], action.weight);
    }
  }
  return groups.contents();
}

// The `index`-th of the ways in which three averages can be treated.
std::array<Action, 3> actions_of(int index) {
  std::array<Action, 3> actions;
  for (int i = 0; i < 3; ++i, index /= 4) {
    const auto kind = static_cast<Action::Kind>(index % 4);
    actions[static_cast<size_t>(i)] = {kind, swa_fast::mean_weight(2 + 5 * i)};
  }
  return actions;
}
constexpr int kNumActions = 64;

}  // namespace

TEST(targets_get_what_each_would_get_alone) {
  cases::Random random(61);
  int variant = 0;
  for_each_pair([&](auto dst, auto src) {
    const int other = (dst.index + 1) % kNumTypes, narrow = (dst.index + 2) % kNumTypes;
    const std::vector<std::vector<Target>> sets = {
        {{dst.index, 0, false, -1}, {other, 1, false, -1}},
        {{dst.index, 0, false, -1}, {dst.index, 1, false, -1}, {other, 2, false, -1}},
        // A rounded view of the first average, a copy, a converted copy.
        {{dst.index, 0, false, -1},
         {other, 1, false, -1},
         {src.index, 1, true, -1},
         {narrow, 0, true, -1},
         {narrow, 0, true, 0}}};
    for (const auto& targets : sets) {
      const Groups groups = make_groups(src.index, targets, random);
      const std::vector<unsigned char> before = Groups(groups).contents();
      for_each_isa([&](const KernelTable& table) {
        for (const int threads : {1, 2, 3, 8}) {
          const int index = (variant += 7) % kNumActions;
          const auto actions = actions_of(index);
          const auto expected = one_by_one(groups, table, actions.data());
          CHECK_WITH(launched(groups, table, actions.data(), threads) == expected,
                     std::string(table.isa) + " " + dst.name + " <- " + src.name + ", actions " +
                         std::to_string(index) + ", " + std::to_string(threads) + " threads");
        }
      });
    }
  });
}

TEST(each_action_does_its_own) {
  cases::Random random(62);
  const KernelTable& table = *swa_fast::cpu::kernels_by_name("baseline");
  const std::vector<Target> targets = {{1, 0, false, -1}, {1, 1, false, -1}, {0, 2, false, -1},
                                       {1, 0, true, -1},  {2, 1, true, 1},   {3, 2, true, -1}};
  const Groups groups = make_groups(1, targets, random);
  const auto before = Groups(groups).contents();
  std::vector<std::vector<unsigned char>> seen;
  for (int index = 0; index < kNumActions; ++index) {
    const auto actions = actions_of(index);
    const auto got = launched(groups, table, actions.data(), 1 + index % 4);
    CHECK_WITH(got == one_by_one(groups, table, actions.data()), std::to_string(index));
    CHECK((got == before) == (index == 0));
    CHECK(std::find(seen.begin(), seen.end(), got) == seen.end());
    seen.push_back(got);
  }
}

TEST(bytes_are_those_that_the_actions_move) {
  cases::Random random(63);
  const KernelTable& table = swa_fast::cpu::active_kernels();
  const std::vector<Target> targets = {{1, 0, false, -1}, {0, 1, false, -1}, {2, 1, true, 1}};
  Groups groups = make_groups(1, targets, random);
  Launch launch;
  int64_t count = 0;
  for (size_t v = 0; v < groups.values.size(); ++v) {
    count += groups.counts[v];
    for (size_t t = 0; t < targets.size(); ++t) {
      launch.add({blend_of(table, groups, t), nullptr, nullptr, nullptr, groups.counts[v],
                  size_of(targets[t].type), size_of(groups.source_type(t)), 0, 0,
                  static_cast<int16_t>(targets[t].average), targets[t].follows},
                 t == 0);
    }
  }
  launch.finish();
  const auto bytes = [&](Action::Kind first, Action::Kind second) {
    const Action actions[] = {{first, {}}, {second, {}}};
    return launch.bytes(actions);
  };
  CHECK_EQ(bytes(Action::kNothing, Action::kNothing), 0);
  CHECK_EQ(bytes(Action::kBlend, Action::kNothing), 8 * count);
  CHECK_EQ(bytes(Action::kCopy, Action::kKeep), (8 + 10) * count);
  CHECK_EQ(bytes(Action::kKeep, Action::kBlend), (12 + 10) * count);
  CHECK_EQ(bytes(Action::kBlend, Action::kCopy), (8 + 12 + 10) * count);
}

namespace {

struct Call {
  char* dst;
  char* src;
  int64_t count;
};
std::vector<Call> calls;

void take_note(void* dst, void* src, int64_t count, const swa_fast::Weight&) {
  calls.push_back({static_cast<char*>(dst), static_cast<char*>(src), count});
}

Segment noted(uintptr_t dst, uintptr_t src, int64_t count, int dst_step, int src_step) {
  return {take_note,
          take_note,
          reinterpret_cast<char*>(dst),
          reinterpret_cast<char*>(src),
          count,
          dst_step,
          src_step,
          0,
          0,
          0,
          false};
}

}  // namespace

// The value comes from memory once: all targets take a block before any takes the next.
TEST(several_targets_take_the_value_block_by_block) {
  for (const int value_step : {1, 2, 4, 8}) {
    const int64_t count = 5 * kBlockBytes / value_step + 11;
    Launch launch;
    launch.add(noted(1 << 24, 1 << 22, count, 4, value_step), true);
    launch.add(noted(1 << 25, 1 << 22, count, 8, value_step), false);
    launch.add(noted(1 << 26, 1 << 24, count, 2, 4), false);  // shows the first
    launch.add(noted(1 << 27, 1 << 23, count, 4, value_step), true);
    launch.finish();
    const Action action = {Action::kBlend, {}};
    calls.clear();
    launch.run(&action, 1);
    CHECK_EQ(calls.size(), 6u * 3 + 1);
    for (size_t i = 0; i + 1 < calls.size(); i += 3) {
      const int64_t at = static_cast<int64_t>(i / 3) * kBlockBytes / value_step;
      CHECK_EQ(calls[i].count, std::min(kBlockBytes / value_step, count - at));
      for (size_t t = 0; t < 3; ++t) CHECK_EQ(calls[i + t].count, calls[i].count);
      CHECK(calls[i].dst == reinterpret_cast<char*>(1 << 24) + 4 * at);
      CHECK(calls[i + 1].dst == reinterpret_cast<char*>(1 << 25) + 8 * at);
      CHECK(calls[i + 1].src == reinterpret_cast<char*>(1 << 22) + value_step * at);
      CHECK(calls[i + 2].src == calls[i].dst);
    }
    CHECK_EQ(calls.back().count, count);  // one target alone is taken whole
  }
}
