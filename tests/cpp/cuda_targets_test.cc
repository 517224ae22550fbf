// Several targets of one value on CUDA devices: one launch that reads the value once, with the bits
// of a launch for each; and plans that are kept there.
#include <cstring>
#include <string>

#include "check.h"
#include "core/error.h"
#include "cuda_buffers.h"
#include "host_grid.h"
#include "kernel_cases.h"
#include "plans.h"

using swa_fast::Action;
using swa_fast::Buffer;
using swa_fast::Error;
using swa_fast::Op;
using swa_fast::Plan;
using swa_fast::Targets;

namespace {

using Buffers = std::vector<Buffer>;
using Bytes = std::vector<unsigned char>;

// Bytes with room on both sides, in which a tensor begins anywhere.
struct Memory {
  Bytes bytes;
  size_t at;
  Layout layout;
  swa_fast::DType dtype;

  // `lead` elements behind an address that is a multiple of 16.
  template <class T>
  Memory(const std::vector<T>& elements, int64_t lead)
      : bytes((elements.size() + static_cast<size_t>(lead)) * sizeof(T) + 64),
        layout({static_cast<int64_t>(elements.size())}),
        dtype(dtype_of<T>()) {
    const auto address = reinterpret_cast<uintptr_t>(bytes.data());
    at = 16 + (16 - address % 16) % 16 + static_cast<size_t>(lead) * sizeof(T);
    std::memcpy(&bytes[at], elements.data(), elements.size() * sizeof(T));
  }
  // A copy lies elsewhere, at the same distance from a multiple of 16.
  Memory(const Memory& other)
      : bytes(other.bytes.size() + 16), layout(other.layout), dtype(other.dtype) {
    const auto lead = reinterpret_cast<uintptr_t>(&other.bytes[other.at]) % 16;
    const auto address = reinterpret_cast<uintptr_t>(bytes.data());
    at = 16 + (16 - address % 16) % 16 + lead;
    std::memcpy(&bytes[at], &other.bytes[other.at], other.contents().size());
  }
  Memory& operator=(const Memory&) = delete;

  Bytes contents() const {
    const auto begin = bytes.begin() + static_cast<int64_t>(at);
    return Bytes(begin, begin + layout.shape[0] * dtype.itemsize());
  }
  bool is_same(const Memory& other) const {
    const Bytes mine = contents(), theirs = other.contents();
    bool same = true;
    for_each_storage([&](auto storage) {
      using T = typename decltype(storage)::Type;
      if (dtype_of<T>() != dtype) return;
      std::vector<T> expected(static_cast<size_t>(layout.shape[0]));
      std::memcpy(expected.data(), theirs.data(), theirs.size());
      same = first_difference(mine.data(), expected.data(), layout.shape[0], true) < 0;
    });
    return same;
  }
  Buffer buffer() {
    Buffer made = layout.buffer(&bytes[at], dtype);
    made.device = cuda_device(0);
    return made;
  }
};

// Values with lists of targets, each made of one type.
struct Model {
  struct List {
    Targets::Role role;
    int average;
    int shown;
    std::vector<Memory> memory;
  };
  std::vector<Memory> values;
  std::vector<List> lists;

  Buffers buffers(std::vector<Memory>& memory) const {
    Buffers all;
    for (Memory& one : memory) all.push_back(one.buffer());
    return all;
  }
  // Whether the targets hold the same numbers; which NaN arithmetic makes is not promised.
  bool same_targets(const Model& other) const {
    bool same = true;
    for (size_t k = 0; k < lists.size(); ++k) {
      for (size_t i = 0; i < values.size(); ++i) {
        same = same && lists[k].memory[i].is_same(other.lists[k].memory[i]);
      }
    }
    return same;
  }

  // All lists in one plan, with `values` of its own or others; on the host grid, or on the CPU.
  void run(Op op, const std::vector<Action>& actions) {
    const Buffers v = buffers(values);
    std::vector<Buffers> of_lists;
    of_lists.reserve(lists.size());
    std::vector<Targets> targets;
    for (List& list : lists) {
      of_lists.push_back(buffers(list.memory));
      targets.push_back({"targets", of_lists.back(), list.role, list.average, list.shown});
    }
    Plan plan;
    plan.add(op, "values", v, targets);
    plan.prepare();
    plan.run(actions.data());
  }

  // Each list by a call of its own.
  void run_apart(Op op, const std::vector<Action>& actions) {
    for (List& list : lists) {
      const Action& action = actions[static_cast<size_t>(list.average)];
      if (action.kind == Action::kNothing) continue;
      const bool is_view = list.role == Targets::kView;
      auto& sources = is_view ? lists[static_cast<size_t>(list.shown)].memory : values;
      const Buffers dst = buffers(list.memory), src = buffers(sources);
      if (list.role == Targets::kAverage) {
        plan_of(op, {"averages", "values", dst, src}).run(&action);
      } else {
        run_call(Op::kCopy, {"targets", "sources", dst, src}, {});
      }
    }
  }
};

// Values of one type whose averages are of another, `averages` of them, with a view of the first in
// the type of the values and a copy of them. ragged: tensors begin at different alignments.
template <class Dst, class Src>
Model model_of(int averages, bool ragged, cases::Random& random) {
  Model model;
  const size_t sizes[] = {1, 7, 130, 511, 4099};
  for (size_t i = 0; i < std::size(sizes); ++i) {
    const auto lead = ragged ? static_cast<int64_t>(i) : 0;
    model.values.emplace_back(cases::random_values<Src>(sizes[i], random), lead);
  }
  const auto add = [&](Targets::Role role, int average, int shown, auto zero) {
    using T = decltype(zero);
    model.lists.push_back({role, average, shown, {}});
    for (size_t i = 0; i < std::size(sizes); ++i) {
      const auto lead = ragged ? static_cast<int64_t>((i + model.lists.size() % 3) % 5) : 0;
      model.lists.back().memory.emplace_back(cases::random_values<T>(sizes[i], random), lead);
    }
  };
  for (int k = 0; k < averages; ++k) add(Targets::kAverage, k, -1, Dst{});
  add(Targets::kView, 0, 0, Src{});
  add(Targets::kCopy, averages - 1, -1, Src{});
  return model;
}

std::vector<Action> actions_of(int index, int averages, Op op) {
  std::vector<Action> actions;
  for (int i = 0; i < averages; ++i, index /= 4) {
    const auto kind = static_cast<Action::Kind>(index % 4);
    const bool mean = op == Op::kTfaMean && kind == Action::kBlend;
    actions.push_back(mean ? swa_fast::tfa_mean_action(3 + i)
                           : Action{kind, swa_fast::mean_weight(2 + 3 * i)});
  }
  return actions;
}

}  // namespace

TEST(targets_get_the_bits_of_launches_of_their_own) {
  const host_grid::Installed installed;
  cases::Random random(91);
  int variant = 0;
  for_each_pair([&](auto to, auto from) {
    using Dst = typename decltype(to)::Type;
    using Src = typename decltype(from)::Type;
    for (const bool ragged : {false, true}) {
      for (const int averages : {2, 3}) {
        const Model model = model_of<Dst, Src>(averages, ragged, random);
        for (int round = 0; round < 6; ++round) {
          const Op op = round % 3 == 2 ? Op::kTfaMean : Op::kLerp;
          const auto actions = actions_of(variant += 5, averages, op);
          Model apart = model, together = model;
          apart.run_apart(op, actions);
          together.run(op, actions);
          CHECK_WITH(together.same_targets(apart),
                     std::string(to.name) + " <- " + from.name + ", " + std::to_string(variant));
        }
      }
    }
  });
}

TEST(averages_of_one_type_take_one_launch) {
  const host_grid::Installed installed;
  cases::Random random(92);
  const auto& launches = host_grid::record.launches;
  const auto run = [&](Model model, std::vector<Action> actions) {
    host_grid::record.launches.clear();
    model.run(Op::kLerp, actions);
  };
  const Action half = swa_fast::snapshot_action(swa_fast::lerp_weight(0.5));
  const Action quarter = swa_fast::snapshot_action(swa_fast::lerp_weight(0.25));
  const Action first = swa_fast::snapshot_action(swa_fast::mean_weight(0));
  const Action keep = swa_fast::snapshot_action(swa_fast::lerp_weight(0));
  const Action nothing = {Action::kNothing, {}};
  Model three = model_of<float, float>(3, false, random);
  // The averages, and behind them the view, and the copy: one launch each, five rows.
  run(three, {half, quarter, half});
  CHECK_EQ(launches.size(), 3u);
  CHECK(launches[0].rows == 5 && launches[0].tensors == 15);
  CHECK(launches[1].tensors == 5 && launches[2].tensors == 5);
  // Those that are due, in one launch.
  run(three, {half, nothing, quarter});
  CHECK(launches.size() == 3 && launches[0].rows == 5 && launches[0].tensors == 10);
  // A first snapshot beside others: its copies go in a launch that does not read what they replace.
  run(three, {half, first, half});
  CHECK(launches.size() == 4 && launches[0].tensors == 10 && launches[1].tensors == 5);
  run(three, {first, first, first});
  CHECK(launches.size() == 3 && launches[0].tensors == 15);
  // Weight 0: what follows is copied.
  run(three, {keep, nothing, nothing});
  CHECK(launches.size() == 1 && launches[0].tensors == 5);
  run(three, {nothing, nothing, nothing});
  CHECK(launches.empty());
  // More than a row holds.
  run(model_of<float, float>(6, false, random), std::vector<Action>(6, half));
  CHECK_EQ(launches.size(), 4u);
  CHECK(launches[0].tensors == 20 && launches[1].tensors == 10);
  CHECK(host_grid::record.entered.empty());
  CHECK_EQ(host_grid::record.max_entered, 1);
}

TEST(averages_of_several_types_share_what_they_can) {
  const host_grid::Installed installed;
  std::vector<Tensor> values, a, b, c;
  for (int i = 0; i < 300; ++i) {
    values.emplace_back(kFloat32, std::vector<float>(5, 4.0f));
    a.emplace_back(kFloat32, std::vector<float>(5, 0.0f));
    b.emplace_back(kFloat64, std::vector<double>(5, 0.0));
    c.emplace_back(kFloat32, std::vector<float>(5, 2.0f));
  }
  Plan plan;
  plan.add(Op::kLerp, "values", on_cuda(buffers_of(values)),
           {{"a", on_cuda(buffers_of(a)), Targets::kAverage, 0},
            {"b", on_cuda(buffers_of(b)), Targets::kAverage, 1},
            {"c", on_cuda(buffers_of(c)), Targets::kAverage, 2}});
  plan.prepare();
  const Action half = swa_fast::snapshot_action(swa_fast::lerp_weight(0.5));
  const Action actions[] = {half, half, half};
  plan.run(actions);
  CHECK_EQ(host_grid::record.launches.size(), 2u);
  CHECK_EQ(host_grid::record.launches[0].tensors, 600);
  CHECK_EQ(host_grid::record.launches[1].tensors, 300);
  for (int i = 0; i < 300; ++i) {
    const auto at = static_cast<size_t>(i);
    CHECK_EQ(a[at].elements<float>()[4], 2.0f);
    CHECK_EQ(b[at].elements<double>()[4], 2.0);
    CHECK_EQ(c[at].elements<float>()[4], 3.0f);
  }
}

// A list of targets may hold what is copied among what is averaged, and a view may show a copy: it
// comes behind it, whatever stands first in the lists.
TEST(a_view_of_a_copy_comes_behind_it) {
  const host_grid::Installed installed;
  std::vector<Tensor> values = {Tensor(kFloat32, std::vector<float>{4, 8}),
                                Tensor(kFloat64, std::vector<double>{4, 8})};
  std::vector<Tensor> averages = {Tensor(kFloat64, Layout({2})), Tensor(kFloat64, Layout({2}))};
  std::vector<Tensor> shown = {Tensor(kFloat32, Layout({2})), Tensor(kFloat32, Layout({2}))};
  const Buffers v = on_cuda(buffers_of(values)), a = on_cuda(buffers_of(averages)),
                w = on_cuda(buffers_of(shown));
  Plan plan;
  plan.add(
      Op::kLerp, "values", v,
      {{"averages", a, Targets::kAverage, 0, -1, {}, {1}}, {"shown", w, Targets::kView, 0, 0}});
  plan.prepare();
  const Action half = swa_fast::snapshot_action(swa_fast::lerp_weight(0.5));
  plan.run(&half);
  CHECK(shown[0].elements<float>() == std::vector<float>({2, 4}));
  CHECK(shown[1].elements<float>() == std::vector<float>({4, 8}));
}

// Not every value has a target in every list.
TEST(targets_of_some_values) {
  const host_grid::Installed installed;
  std::vector<Tensor> values, first, second;
  for (int i = 0; i < 4; ++i) {
    values.emplace_back(kFloat32, std::vector<float>(5, 4.0f + static_cast<float>(i)));
    first.emplace_back(kFloat32, std::vector<float>(5, 0.0f));
  }
  second.assign(2, Tensor(kFloat32, std::vector<float>(5, 0.0f)));
  const Buffers v = on_cuda(buffers_of(values)), a = on_cuda(buffers_of(first)),
                b = on_cuda(buffers_of(second));
  Plan plan;
  plan.add(Op::kLerp, "values", v, {{"a", a}, {"b", b, Targets::kAverage, 1, -1, {1, 2}}});
  plan.prepare();
  const Action actions[] = {swa_fast::snapshot_action(swa_fast::lerp_weight(0.5)),
                            swa_fast::snapshot_action(swa_fast::lerp_weight(0.25))};
  plan.run(actions);
  // Values with both in one launch, those with one in another.
  CHECK_EQ(host_grid::record.launches.size(), 2u);
  for (size_t i = 0; i < 4; ++i) {
    CHECK_EQ(first[i].elements<float>()[4], (4.0f + static_cast<float>(i)) / 2);
  }
  CHECK_EQ(second[0].elements<float>()[4], 5.0f / 4);
  CHECK_EQ(second[1].elements<float>()[4], 6.0f / 4);
}

// The counter is the first average's; another has a weight of the host.
TEST(a_counter_beside_a_weight) {
  const host_grid::Installed installed;
  std::vector<Tensor> values = {Tensor(kFloat32, std::vector<float>(9, 6.0f))};
  std::vector<Tensor> a = {Tensor(kFloat32, std::vector<float>(9, 3.0f))}, b = a;
  int64_t count = 2;
  const Layout scalar({});
  Buffer number = scalar.buffer(&count, {swa_fast::kCodeInt, 64});
  number.device = cuda_device(0);
  const swa_fast::Counter counter = {"count", number};
  Plan plan(false, &counter);
  plan.add(Op::kLerp, "values", on_cuda(buffers_of(values)),
           {{"a", on_cuda(buffers_of(a))}, {"b", on_cuda(buffers_of(b)), Targets::kAverage, 1}});
  plan.prepare();
  const Action actions[] = {swa_fast::unconditional_action(),
                            swa_fast::snapshot_action(swa_fast::lerp_weight(0.5))};
  plan.run(actions);
  CHECK_EQ(host_grid::record.launches.size(), 1u);
  CHECK_EQ(a[0].elements<float>()[8], 4.0f);
  CHECK_EQ(b[0].elements<float>()[8], 4.5f);
}

namespace {

// A kept plan with two averages, a view of the first, and copies of integers.
struct Kept {
  std::vector<Tensor> values, first, second, shown;
  Plan plan{true};

  explicit Kept(int count = 3) {
    for (int i = 0; i < count; ++i) {
      const size_t size = i % 3 == 2 ? 5000 : 7;
      values.emplace_back(kFloat32, std::vector<float>(size, 4.0f));
      first.emplace_back(kFloat32, std::vector<float>(size, 0.0f));
      second.emplace_back(kFloat32, std::vector<float>(size, 0.0f));
      shown.emplace_back(kFloat16, Layout({static_cast<int64_t>(size)}));
    }
    plan.add(Op::kLerp, "values", on_cuda(buffers_of(values)),
             {{"first", on_cuda(buffers_of(first))},
              {"second", on_cuda(buffers_of(second)), Targets::kAverage, 1},
              {"shown", on_cuda(buffers_of(shown)), Targets::kView, 0, 0}});
    plan.prepare();
  }

  // Whether the averages become what comes of values that are `value`.
  bool gives(float value) {
    for (auto* list : {&first, &second, &shown}) {
      for (Tensor& tensor : *list) std::fill(tensor.memory.begin(), tensor.memory.end(), 0);
    }
    const Action actions[] = {swa_fast::snapshot_action(swa_fast::lerp_weight(0.5)),
                              swa_fast::snapshot_action(swa_fast::lerp_weight(0.25))};
    plan.run(actions);
    bool right = true;
    for (size_t i = 0; i < values.size(); ++i) {
      for (const float x : first[i].elements<float>()) right = right && x == value / 2;
      for (const float x : second[i].elements<float>()) right = right && x == value / 4;
      for (const uint16_t x : shown[i].elements<uint16_t>()) {
        right = right && swa_fast::to_float(swa_fast::Float16{x}) == value / 2;
      }
    }
    return right;
  }
};

std::vector<Tensor> filled(const std::vector<Tensor>& like, float value, size_t extra = 0) {
  std::vector<Tensor> all;
  for (const Tensor& tensor : like) {
    const auto size = static_cast<size_t>(tensor.layout.shape[0]) + extra;
    all.emplace_back(kFloat32, std::vector<float>(size, value));
  }
  return all;
}

}  // namespace

TEST(a_kept_plan_runs_again_and_again) {
  const host_grid::Installed installed;
  Kept kept(400);
  const Buffers same = on_cuda(buffers_of(kept.values));
  for (int run = 0; run < 3; ++run) {
    CHECK(kept.plan.matches(same));
    CHECK(kept.gives(4.0f));
  }
  CHECK_EQ(host_grid::record.launches.size(), 6u);  // one for the averages, one for the view
}

TEST(values_that_have_moved_are_read_where_they_are) {
  const host_grid::Installed installed;
  Kept kept;
  auto others = filled(kept.values, 10.0f), shifted = filled(kept.values, 20.0f, 1);
  const Buffers before = on_cuda(buffers_of(kept.values));
  CHECK(kept.plan.matches(on_cuda(buffers_of(others))));
  CHECK(kept.gives(10.0f));
  // One element further on: other vectors, other chunks.
  Buffers off = before;
  for (size_t i = 0; i < off.size(); ++i) off[i].data = shifted[i].memory.data() + 4;
  CHECK(kept.plan.matches(off));
  CHECK(kept.gives(20.0f));
  CHECK(kept.plan.matches(before));
  CHECK(kept.gives(4.0f));
}

TEST(what_cannot_be_taken_over_changes_nothing) {
  const host_grid::Installed installed;
  Kept kept;
  auto others = filled(kept.values, 10.0f, 1);
  Buffers buffers = on_cuda(buffers_of(kept.values));
  for (size_t i = 0; i < buffers.size(); ++i) buffers[i].data = others[i].memory.data();
  CHECK(kept.plan.matches(buffers));
  CHECK(kept.gives(10.0f));
  for (size_t i = 0; i < buffers.size(); ++i) {
    Buffers spoiled = on_cuda(buffers_of(kept.values));
    spoiled[i].data = others[i].memory.data() + 2;
    CHECK(!kept.plan.matches(spoiled));
    spoiled[i].data = nullptr;
    CHECK(!kept.plan.matches(spoiled));
    spoiled[i].data = kept.second[2].memory.data() + 8;
    CHECK_THROWS(Error, kept.plan.matches(spoiled));
    spoiled[i] = buffers[i];
    spoiled[i].device = cuda_device(1);
    CHECK(!kept.plan.matches(spoiled));
    CHECK(kept.gives(10.0f));
  }
}

// Copies move units as wide as the addresses allow: at another address that may be too wide.
TEST(a_copy_goes_on_where_its_units_fit) {
  const host_grid::Installed installed;
  std::vector<Tensor> values = {Tensor(kInt32, std::vector<int32_t>{1, 2, 3, 4})};
  std::vector<Tensor> copies = {Tensor(kInt32, Layout({4}))};
  Plan plan(true);
  plan.add(Op::kCopy, "values", on_cuda(buffers_of(values)),
           {{"copies", on_cuda(buffers_of(copies)), Targets::kCopy}});
  plan.prepare();
  alignas(16) unsigned char bytes[64];
  for (size_t i = 0; i < sizeof(bytes); ++i) bytes[i] = static_cast<unsigned char>(i);
  Buffers buffers = on_cuda(buffers_of(values));
  const unsigned char* read = nullptr;
  for (const int offset : {0, 4, 8, 12, 1, 2, 7}) {
    buffers[0].data = bytes + offset;
    const bool fits = offset % 4 == 0;
    if (fits) read = bytes + offset;
    CHECK_EQ(plan.matches(buffers), fits);
    const Action action = swa_fast::unconditional_action();
    plan.run(&action);
    CHECK(std::memcmp(copies[0].memory.data(), read, 16) == 0);
  }
}
