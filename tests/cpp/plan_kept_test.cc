// Plans that are kept: when they still match the values, what they do when those have moved, and
// that a plan which does not match, or refuses, is as it was.
#include <string>

#include "buffers.h"
#include "check.h"
#include "core/error.h"
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

const Action kHalf = swa_fast::snapshot_action(swa_fast::lerp_weight(0.5));

// Values of two types and one empty one, each with two averages and one of them shown.
struct Kept {
  std::vector<Tensor> values, first, second, shown;
  Plan plan{true};

  explicit Kept(float value = 4.0f) {
    for (const int64_t count : {6, 0, 5000}) {
      const auto size = static_cast<size_t>(count);
      values.emplace_back(kFloat32, std::vector<float>(size, value));
      first.emplace_back(kFloat32, std::vector<float>(size, 0.0f));
      second.emplace_back(kFloat64, std::vector<double>(size, 0.0));
      shown.emplace_back(kFloat64, Layout({count}));
    }
    values.emplace_back(kFloat64, std::vector<double>(3, value));
    first.emplace_back(kFloat32, std::vector<float>(3, 0.0f));
    second.emplace_back(kFloat64, std::vector<double>(3, 0.0));
    shown.emplace_back(kFloat64, Layout({3}));
    const Buffers v = buffers_of(values), f = buffers_of(first), s = buffers_of(second),
                  w = buffers_of(shown);
    plan.add(
        Op::kLerp, "values", v,
        {{"first", f}, {"second", s, Targets::kAverage, 1}, {"shown", w, Targets::kView, 0, 0}});
    plan.prepare();
  }

  // Sets the averages to 0, runs with weights 0.5 and 1, and tells whether every average is what
  // comes of values that are `value` everywhere.
  bool gives(float value) {
    for (auto* list : {&first, &second, &shown}) {
      for (Tensor& tensor : *list) std::fill(tensor.memory.begin(), tensor.memory.end(), 0);
    }
    const Action actions[] = {kHalf, swa_fast::snapshot_action(swa_fast::lerp_weight(1))};
    plan.run(actions);
    bool right = true;
    for (size_t i = 0; i < values.size(); ++i) {
      for (const float x : first[i].elements<float>()) right = right && x == value / 2;
      for (const double x : second[i].elements<double>()) right = right && x == value;
      for (const double x : shown[i].elements<double>()) right = right && x == value / 2;
    }
    return right;
  }
};

// The same values, elsewhere.
std::vector<Tensor> moved(const std::vector<Tensor>& values, float value) {
  std::vector<Tensor> others = values;
  for (Tensor& tensor : others) {
    const auto count = static_cast<size_t>(tensor.layout.shape[0]);
    tensor = tensor.dtype == kFloat32 ? Tensor(kFloat32, std::vector<float>(count, value))
                                      : Tensor(kFloat64, std::vector<double>(count, value));
  }
  return others;
}

}  // namespace

TEST(the_same_values_match_and_weights_come_with_the_run) {
  Kept kept;
  const Buffers same = buffers_of(kept.values);
  CHECK(kept.plan.matches(same));
  for (size_t i = 0; i < same.size(); ++i) CHECK(kept.plan.is_same(i, same[i]));
  CHECK(kept.gives(4.0f));
  // Running means of the same plan: 4, 6, 8 at counts 0, 1, 2.
  std::vector<float> mean;
  for (int64_t count = 0; count < 3; ++count) {
    const float value = 4.0f + 2.0f * static_cast<float>(count);
    std::memcpy(kept.values[0].memory.data(), &value, sizeof(value));
    CHECK(kept.plan.matches(same));
    const Action action = swa_fast::snapshot_action(swa_fast::mean_weight(count));
    const Action actions[] = {action, {Action::kNothing, {}}};
    kept.plan.run(actions);
    mean.push_back(kept.first[0].elements<float>()[0]);
  }
  CHECK(mean == std::vector<float>({4, 5, 6}));
  CHECK_EQ(kept.shown[0].elements<double>()[0], 6.0);
  CHECK_EQ(kept.second[0].elements<double>()[0], 4.0);  // was not due
}

TEST(values_that_have_moved_are_read_where_they_are) {
  Kept kept;
  std::vector<Tensor> others = moved(kept.values, 10.0f), more = moved(kept.values, 20.0f);
  const Buffers before = buffers_of(kept.values), after = buffers_of(others);
  CHECK(kept.plan.matches(after));
  CHECK(kept.gives(10.0f));
  CHECK(kept.plan.is_same(0, after[0]) && !kept.plan.is_same(0, before[0]));
  // One of them alone, and back.
  Buffers mixed = after;
  mixed[2] = before[2];
  CHECK(kept.plan.matches(mixed));
  CHECK(!kept.gives(10.0f));
  CHECK_EQ(kept.second[0].elements<double>()[0], 10.0);
  CHECK_EQ(kept.second[2].elements<double>()[4999], 4.0);
  CHECK(kept.plan.matches(buffers_of(more)));
  CHECK(kept.gives(20.0f));
  CHECK(kept.plan.matches(before));
  CHECK(kept.gives(4.0f));
}

TEST(values_may_share_memory_and_empty_ones_lie_anywhere) {
  Kept kept;
  std::vector<Tensor> others = moved(kept.values, 10.0f);
  Buffers buffers = buffers_of(others);
  buffers[0].data = buffers[2].data;  // within the larger one
  buffers[1].data = nullptr;
  CHECK(kept.plan.matches(buffers));
  CHECK(kept.gives(10.0f));
  buffers[1].data = kept.first[2].memory.data() + 1;
  CHECK(kept.plan.matches(buffers));
  CHECK(kept.gives(10.0f));
}

TEST(other_tensors_do_not_match) {
  Kept kept;
  const Layout two({3, 2}), strided({6}, {1}), longer({7}), none({});
  const auto spoiled = [&](const auto& spoil) {
    Buffers buffers = buffers_of(kept.values);
    spoil(buffers);
    CHECK(!kept.plan.matches(buffers));
    CHECK(kept.plan.matches(buffers_of(kept.values)));
    CHECK(kept.gives(4.0f));
  };
  using B = Buffers;
  spoiled([](B& b) { b.pop_back(); });
  spoiled([](B& b) { b.push_back(b[0]); });
  spoiled([](B& b) { b.clear(); });
  spoiled([](B& b) { std::swap(b[0], b[3]); });
  spoiled([](B& b) { b[0].dtype = kInt32; });
  spoiled([](B& b) { b[0].dtype = kFloat64; });
  spoiled([](B& b) { b[0].dtype.bits = 16; });
  spoiled([&](B& b) { b[0].shape = longer.shape.data(); });
  spoiled([&](B& b) { b[0].shape = two.shape.data(), b[0].ndim = 2; });
  spoiled([&](B& b) { b[0].shape = none.shape.data(), b[0].ndim = 0; });
  spoiled([&](B& b) { b[0].strides = strided.strides.data(); });
  spoiled([](B& b) { b[0].device = {swa_fast::DeviceType::kCuda, 0, 2}; });
  spoiled([](B& b) { b[0].device.index = 1; });
  // An empty tensor is one of its shape too.
  spoiled([&](B& b) { b[1].shape = longer.shape.data(); });
}

TEST(strides_are_part_of_what_matches) {
  const Layout rows({2, 3}, {3, 1}), columns({2, 3}, {1, 2});
  std::vector<Tensor> values = {Tensor(kFloat32, columns)}, averages = {Tensor(kFloat32, columns)};
  Plan plan(true);
  plan.add(Op::kLerp, "values", buffers_of(values), {{"averages", buffers_of(averages)}});
  plan.prepare();
  Buffers buffers = buffers_of(values);
  CHECK(plan.matches(buffers));
  buffers[0].strides = rows.strides.data();
  CHECK(!plan.matches(buffers));
  buffers[0].strides = nullptr;
  CHECK(!plan.matches(buffers));
  CHECK(!plan.is_same(0, buffers[0]));
}

TEST(memory_that_cannot_be_read_does_not_match) {
  Kept kept;
  std::vector<Tensor> others = moved(kept.values, 10.0f);
  for (const size_t spoiled : {size_t{0}, size_t{2}, size_t{3}}) {
    for (const bool freed : {false, true}) {
      Buffers buffers = buffers_of(others);
      buffers[spoiled].data = freed ? nullptr : static_cast<char*>(buffers[spoiled].data) + 2;
      CHECK(!kept.plan.matches(buffers));
      // Nothing was taken over, of the others either: without another look, the old values.
      CHECK(kept.gives(4.0f));
    }
  }
}

// Bits need no alignment: a copy of the same type goes on.
TEST(a_copy_reads_bits_at_any_address) {
  std::vector<Tensor> values = {Tensor(kFloat32, std::vector<float>{1, 2})};
  std::vector<Tensor> copies = {Tensor(kFloat32, Layout({2}))};
  Plan plan(true);
  plan.add(Op::kLerp, "values", buffers_of(values),
           {{"copies", buffers_of(copies), Targets::kCopy}});
  plan.prepare();
  std::vector<unsigned char> bytes(9);
  std::memcpy(&bytes[1], values[0].memory.data(), 8);
  Buffers buffers = buffers_of(values);
  buffers[0].data = &bytes[1];
  CHECK(plan.matches(buffers));
  plan.run(&kHalf);
  CHECK(copies[0].memory == values[0].memory);
}

TEST(values_that_move_into_what_is_written_are_refused) {
  Kept kept;
  const std::string rule = " overlap in memory: every tensor that is written must be disjoint";
  const auto refused = [&](const auto& spoil, const std::string& both) {
    Buffers buffers = buffers_of(kept.values);
    spoil(buffers);
    const Error error = CHECK_THROWS(Error, kept.plan.matches(buffers));
    CHECK_EQ(std::string(error.what()).find(both + rule), 0u);
    CHECK_EQ(std::string(error.refusal().rule), "overlap");
    CHECK(kept.gives(4.0f));
    CHECK(kept.plan.matches(buffers_of(kept.values)));
  };
  refused([&](Buffers& b) { b[0].data = kept.first[2].memory.data(); }, "first[2] and values[0]");
  refused([&](Buffers& b) { b[2].data = kept.second[2].memory.data() + 8; },
          "second[2] and values[2]");
  refused([&](Buffers& b) { b[3].data = kept.shown[2].memory.data() + 16; },
          "shown[2] and values[3]");
  // Its own first average: the second would be made of what the first has become.
  refused([&](Buffers& b) { b[2].data = kept.first[2].memory.data(); }, "first[2] and values[2]");
}

TEST(an_only_average_may_become_its_value) {
  std::vector<Tensor> values = {Tensor(kFloat32, std::vector<float>{1, 2})};
  std::vector<Tensor> averages = {Tensor(kFloat32, std::vector<float>{3, 4})};
  const Buffers v = buffers_of(values), a = buffers_of(averages);
  Plan plan(true);
  plan.add(Op::kLerp, "values", v, {{"averages", a}});
  plan.prepare();
  CHECK(plan.matches(a));
  plan.run(&kHalf);
  CHECK(averages[0].elements<float>() == std::vector<float>({3, 4}));
  CHECK(plan.matches(v));
  plan.run(&kHalf);
  CHECK(averages[0].elements<float>() == std::vector<float>({2, 3}));
}

// Prepared for values in the memory of a copy of them, where nothing had to be done.
TEST(a_copy_onto_itself_is_done_once_the_value_has_moved) {
  std::vector<Tensor> values = {Tensor(kInt32, std::vector<int32_t>{1, 2})}, others = values;
  others[0].memory[0] = 7;
  const Buffers v = buffers_of(values);
  Plan plan(true);
  plan.add(Op::kCopy, "values", v, {{"copies", v, Targets::kCopy}});
  plan.prepare();
  plan.run(&kHalf);
  CHECK(values[0].elements<int32_t>() == std::vector<int32_t>({1, 2}));
  CHECK(plan.matches(buffers_of(others)));
  plan.run(&kHalf);
  CHECK(values[0].elements<int32_t>() == std::vector<int32_t>({7, 2}));
}

TEST(values_of_several_adds_follow_each_other) {
  std::vector<Tensor> values = {Tensor(kFloat32, std::vector<float>{4})},
                      averages = {Tensor(kFloat32, std::vector<float>{0})},
                      buffers = {Tensor(kInt32, std::vector<int32_t>{1}),
                                 Tensor(kInt32, std::vector<int32_t>{2})},
                      copies = {Tensor(kInt32, Layout({1})), Tensor(kInt32, Layout({1}))};
  Plan plan(true);
  plan.add(Op::kLerp, "values", buffers_of(values), {{"averages", buffers_of(averages)}});
  plan.add(Op::kCopy, "buffers", buffers_of(buffers),
           {{"copies", buffers_of(copies), Targets::kCopy}});
  plan.prepare();
  std::vector<Tensor> other_values = {Tensor(kFloat32, std::vector<float>{8})},
                      other_buffers = {buffers[1], buffers[0]};
  Buffers all = buffers_of(other_values);
  for (Tensor& tensor : other_buffers) all.push_back(tensor.buffer());
  CHECK(plan.matches(all));
  plan.run(&kHalf);
  CHECK_EQ(averages[0].elements<float>()[0], 4.0f);
  CHECK_EQ(copies[0].elements<int32_t>()[0], 2);
  CHECK_EQ(copies[1].elements<int32_t>()[0], 1);
}

TEST(a_swap_stays_where_it_is) {
  std::vector<Tensor> a = {Tensor(kInt32, std::vector<int32_t>{1})},
                      b = {Tensor(kInt32, std::vector<int32_t>{2})}, c = b;
  Plan plan(true);
  plan.add(Op::kSwap, "b", buffers_of(b), {{"a", buffers_of(a)}});
  plan.prepare();
  CHECK(plan.matches(buffers_of(b)));
  plan.run(&kHalf);
  CHECK_EQ(a[0].elements<int32_t>()[0], 2);
  CHECK_EQ(b[0].elements<int32_t>()[0], 1);
  CHECK(!plan.matches(buffers_of(c)));
}

TEST(ten_thousand_prepares_and_moves) {
  Kept kept;
  std::vector<Tensor> others = moved(kept.values, 10.0f);
  const Buffers there = buffers_of(others), here = buffers_of(kept.values);
  bool matched = true;
  for (int i = 0; i < 10000; ++i) {
    Kept* const made = i % 100 == 0 ? new Kept(2.0f) : nullptr;
    matched = matched && kept.plan.matches(i % 2 == 0 ? there : here);
    delete made;
  }
  CHECK(matched);
  CHECK(kept.gives(4.0f));
}
