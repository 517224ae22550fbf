// Plans of several targets for each value: to the bit what a call for each list of targets does.
#include <array>
#include <cstring>
#include <string>

#include "buffers.h"
#include "check.h"
#include "core/error.h"
#include "cpu/threads.h"
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

constexpr swa_fast::DType kTypes[] = {kFloat64, kFloat32, kFloat16, kBFloat16};

Tensor random_tensor(swa_fast::DType dtype, int64_t count, cases::Random& random) {
  Tensor tensor(dtype, Layout({count}));
  for_each_storage([&](auto storage) {
    using T = typename decltype(storage)::Type;
    if (kTypes[storage.index] != dtype) return;
    tensor = Tensor(dtype, cases::random_values<T>(static_cast<size_t>(count), random));
  });
  return tensor;
}

// A list of targets with its tensors.
struct List {
  const char* name;
  Targets::Role role;
  int average;
  int shown;
  std::vector<Tensor> tensors;
};

// Values and the lists of their targets.
struct Model {
  std::vector<Tensor> values;
  std::vector<List> lists;

  // `dtype_of(v)`: the type of the target of value v.
  template <class DTypeOf>
  void add(const char* name, Targets::Role role, int average, int shown, const DTypeOf& dtype_of,
           cases::Random& random) {
    lists.push_back({name, role, average, shown, {}});
    for (size_t v = 0; v < values.size(); ++v) {
      const auto count = static_cast<int64_t>(values[v].layout.shape[0]);
      lists.back().tensors.push_back(random_tensor(dtype_of(v), count, random));
    }
  }

  // Everything that is written.
  std::vector<std::vector<unsigned char>> contents() const {
    std::vector<std::vector<unsigned char>> all;
    for (const List& list : lists) {
      for (const Tensor& tensor : list.tensors) all.push_back(tensor.memory);
    }
    return all;
  }
};

// One of each pair of types, with values of every size about the blocks and shares of the CPU.
Model mixed_model(cases::Random& random) {
  Model model;
  for (const int64_t count : {0, 1, 63, 2048, 4095, 4096, 4097, 8192, 20001, 60000}) {
    for (const auto dtype : kTypes) model.values.push_back(random_tensor(dtype, count, random));
  }
  const auto type_after = [&](size_t steps) {
    return [=](size_t v) { return kTypes[(v + v / 4 + steps) % 4]; };
  };
  const auto values_type = [&](size_t v) { return model.values[v].dtype; };
  model.add("first", Targets::kAverage, 0, -1, type_after(0), random);
  model.add("second", Targets::kAverage, 1, -1, type_after(1), random);
  model.add("third", Targets::kAverage, 2, -1, type_after(2), random);
  model.add("shown", Targets::kView, 0, 0, values_type, random);
  model.add("copies", Targets::kCopy, 1, -1, values_type, random);
  model.add("rounded", Targets::kCopy, 2, -1, type_after(3), random);
  return model;
}

std::vector<Action> actions_of(int index, Op op) {
  std::vector<Action> actions;
  for (int i = 0; i < 3; ++i, index /= 4) {
    const auto kind = static_cast<Action::Kind>(index % 4);
    const bool mean = op == Op::kTfaMean && kind == Action::kBlend;
    actions.push_back(mean ? swa_fast::tfa_mean_action(3 + i)
                           : Action{kind, swa_fast::mean_weight(2 + 3 * i)});
  }
  return actions;
}

// All lists in one plan.
void run_together(Model& model, Op op, const std::vector<Action>& actions) {
  const Buffers values = buffers_of(model.values);
  std::vector<Buffers> buffers;
  buffers.reserve(model.lists.size());
  std::vector<Targets> targets;
  for (List& list : model.lists) {
    buffers.push_back(buffers_of(list.tensors));
    targets.push_back({list.name, buffers.back(), list.role, list.average, list.shown});
  }
  Plan plan;
  plan.add(op, "values", values, targets);
  plan.prepare();
  plan.run(actions.data());
}

// Each list by a call of its own.
void run_apart(Model& model, Op op, const std::vector<Action>& actions) {
  for (List& list : model.lists) {
    const Action& action = actions[static_cast<size_t>(list.average)];
    if (action.kind == Action::kNothing) continue;
    const bool is_view = list.role == Targets::kView;
    auto& sources = is_view ? model.lists[static_cast<size_t>(list.shown)].tensors : model.values;
    const Buffers dst = buffers_of(list.tensors), src = buffers_of(sources);
    const swa_fast::TensorLists lists = {list.name, "values", dst, src};
    if (list.role == Targets::kAverage) {
      plan_of(op, lists).run(&action);
    } else {
      run_call(Op::kCopy, lists, {});
    }
  }
}

}  // namespace

TEST(one_plan_does_what_a_call_for_each_list_does) {
  cases::Random random(71);
  const Model model = mixed_model(random);
  for (const Op op : {Op::kLerp, Op::kTfaMean}) {
    for (int index = 0; index < 64; index += op == Op::kLerp ? 3 : 9) {
      const std::vector<Action> actions = actions_of(index, op);
      Model apart = model, together = model;
      swa_fast::cpu::set_num_threads(1);
      run_apart(apart, op, actions);
      swa_fast::cpu::set_num_threads(1 + index % 4);
      run_together(together, op, actions);
      CHECK_WITH(together.contents() == apart.contents(), "actions " + std::to_string(index));
      CHECK((together.contents() == model.contents()) == (index == 0));
    }
  }
  swa_fast::cpu::set_num_threads(0);
}

// Tensors that begin and end anywhere: slices of larger ones.
TEST(slices_are_targets_like_others) {
  cases::Random random(72);
  const int64_t count = 30011;
  for (const auto dtype : kTypes) {
    for (const int64_t lead : {1, 3, 7}) {
      Model model;
      model.values.push_back(random_tensor(dtype, count + lead, random));
      model.add("averages", Targets::kAverage, 0, -1, [](size_t) { return kFloat32; }, random);
      model.add("others", Targets::kAverage, 1, -1, [](size_t) { return kFloat64; }, random);
      model.add("shown", Targets::kView, 0, 0, [&](size_t) { return dtype; }, random);
      const Layout layout({count});
      const auto slice = [&](Tensor& tensor, int64_t at) -> Buffers {
        return {layout.buffer(tensor.memory.data() + at * tensor.dtype.itemsize(), tensor.dtype)};
      };
      std::vector<std::vector<unsigned char>> results;
      for (const bool together : {true, false}) {
        Model mine = model;
        const Buffers value = slice(mine.values[0], lead),
                      first = slice(mine.lists[0].tensors[0], 0),
                      second = slice(mine.lists[1].tensors[0], 1),
                      shown = slice(mine.lists[2].tensors[0], lead / 2);
        const Action actions[] = {swa_fast::snapshot_action(swa_fast::mean_weight(4)),
                                  swa_fast::snapshot_action(swa_fast::lerp_weight(0.25))};
        if (together) {
          Plan plan;
          plan.add(Op::kLerp, "values", value,
                   {{"averages", first},
                    {"others", second, Targets::kAverage, 1},
                    {"shown", shown, Targets::kView, 0, 0}});
          plan.prepare();
          plan.run(actions);
        } else {
          run_call(Op::kLerp, {"averages", "values", first, value}, actions[0].weight);
          run_call(Op::kLerp, {"others", "values", second, value}, actions[1].weight);
          run_call(Op::kCopy, {"shown", "averages", shown, first}, {});
        }
        for (const auto& memory : mine.contents()) results.push_back(memory);
      }
      for (size_t i = 0; i < 3; ++i) CHECK(results[i] == results[i + 3]);
    }
  }
}

TEST(complex_numbers_and_integers_go_along) {
  std::vector<Tensor> values = {Tensor(kComplex64, std::vector<float>{2, 4, 6, 8})};
  std::vector<Tensor> first = {Tensor(kComplex128, std::vector<double>{0, 0, 0, 0})};
  std::vector<Tensor> second = {Tensor(kComplex64, std::vector<float>{4, 4, 4, 4})};
  std::vector<Tensor> shown = {Tensor(kComplex64, Layout({2}))};
  std::vector<Tensor> integers = {Tensor(kInt32, std::vector<int32_t>{1, 2, 3}),
                                  Tensor(kBool, std::vector<uint8_t>{1})};
  std::vector<Tensor> copies = {Tensor(kInt32, Layout({3})), Tensor(kBool, Layout({1}))};
  const Buffers v = buffers_of(values), f = buffers_of(first), s = buffers_of(second),
                w = buffers_of(shown), i = buffers_of(integers), c = buffers_of(copies);
  Plan plan;
  plan.add(
      Op::kLerp, "values", v,
      {{"averages", f}, {"others", s, Targets::kAverage, 1}, {"shown", w, Targets::kView, 0, 0}});
  plan.add(Op::kCopy, "buffers", i, {{"copies", c, Targets::kCopy, 1}});
  plan.prepare();
  const Action actions[] = {swa_fast::snapshot_action(swa_fast::lerp_weight(0.5)),
                            swa_fast::snapshot_action(swa_fast::lerp_weight(0))};
  plan.run(actions);
  CHECK(first[0].elements<double>() == std::vector<double>({1, 2, 3, 4}));
  CHECK(shown[0].elements<float>() == std::vector<float>({1, 2, 3, 4}));
  CHECK(second[0].elements<float>() == std::vector<float>({4, 4, 4, 4}));
  CHECK(copies[0].memory == integers[0].memory && copies[1].memory == integers[1].memory);
}

// Lists that have targets of some values only, and items that are copied among averages.
TEST(lists_of_some_values_and_copies_among_averages) {
  std::vector<Tensor> values = {
      Tensor(kFloat32, std::vector<float>{4, 8}), Tensor(kInt32, std::vector<int32_t>{7}),
      Tensor(kFloat64, std::vector<double>{6}), Tensor(kFloat32, std::vector<float>{1})};
  std::vector<Tensor> first = {Tensor(kFloat32, Layout({2})), Tensor(kInt32, Layout({1})),
                               Tensor(kFloat32, Layout({1})), Tensor(kFloat64, Layout({1}))};
  std::vector<Tensor> second = {Tensor(kFloat64, Layout({1})), Tensor(kFloat32, Layout({1}))};
  std::vector<Tensor> shown = {Tensor(kFloat16, Layout({2})), Tensor(kFloat32, Layout({1}))};
  const Buffers v = buffers_of(values), f = buffers_of(first), s = buffers_of(second),
                w = buffers_of(shown);
  Plan plan(true);
  plan.add(Op::kLerp, "values", v,
           {{"first", f, Targets::kAverage, 0, -1, {}, {1, 3}},
            {"second", s, Targets::kAverage, 1, -1, {2, 3}, {1}},
            {"shown", w, Targets::kView, 0, 0, {0, 3}}});
  plan.prepare();
  const Action actions[] = {swa_fast::snapshot_action(swa_fast::lerp_weight(0.5)),
                            swa_fast::snapshot_action(swa_fast::lerp_weight(0))};
  std::vector<Tensor> others = values;
  for (std::vector<Tensor>* const at : {&values, &others}) {
    for (auto* list : {&first, &second, &shown}) {
      for (Tensor& tensor : *list) std::fill(tensor.memory.begin(), tensor.memory.end(), 0);
    }
    CHECK(plan.matches(buffers_of(*at)));
    plan.run(actions);
    CHECK(first[0].elements<float>() == std::vector<float>({2, 4}));
    CHECK_EQ(first[1].elements<int32_t>()[0], 7);
    CHECK_EQ(first[2].elements<float>()[0], 3.0f);
    CHECK_EQ(first[3].elements<double>()[0], 1.0);       // copied, not averaged
    CHECK_EQ(second[0].elements<double>()[0], 0.0);      // weight 0
    CHECK_EQ(second[1].elements<float>()[0], 1.0f);      // copied all the same
    CHECK_EQ(shown[0].elements<uint16_t>()[1], 0x4400);  // 4 in float16
    CHECK_EQ(shown[1].elements<float>()[0], 1.0f);
  }
  // Messages name items by their place in their own lists.
  Buffers spoiled = s;
  spoiled[1].data = f[3].data;
  const auto prepare = [&] {
    Plan other;
    other.add(Op::kLerp, "values", v,
              {{"first", f, Targets::kAverage, 0, -1, {}, {1, 3}},
               {"second", spoiled, Targets::kAverage, 1, -1, {2, 3}, {1}}});
    other.prepare();
  };
  const Error error = CHECK_THROWS(Error, prepare());
  CHECK_EQ(std::string(error.what()).find("first[3] and second[1] overlap"), 0u);
  spoiled = s;
  spoiled[0].dtype = kInt32;
  const Error dtype = CHECK_THROWS(Error, prepare());
  CHECK_EQ(std::string(dtype.what()).find("second[0] has dtype int32"), 0u);
  CHECK_EQ(dtype.refusal().index, 2);  // of the value
}

TEST(nothing_to_do_is_an_empty_plan) {
  std::vector<Tensor> none, empties = {Tensor(kFloat32, Layout({0, 3}))};
  for (std::vector<Tensor>* const list : {&none, &empties}) {
    const Buffers b = buffers_of(*list);
    Plan plan(true);
    plan.add(
        Op::kLerp, "values", b,
        {{"averages", b}, {"others", b, Targets::kAverage, 1}, {"shown", b, Targets::kView, 0, 0}});
    plan.prepare();
    CHECK(plan.empty());
    const auto actions = actions_of(63, Op::kLerp);
    plan.run(actions.data());
    CHECK(plan.matches(b));
  }
}

namespace {

// Five values with two averages, one of which is shown in float16.
struct Lists {
  std::vector<Tensor> values, first, second, shown;

  Lists() {
    for (int i = 0; i < 5; ++i) {
      values.emplace_back(kFloat32, std::vector<float>(8, 1.0f));
      first.emplace_back(kFloat32, std::vector<float>(8, 2.0f));
      second.emplace_back(kFloat64, std::vector<double>(8, 3.0));
      shown.emplace_back(kFloat16, Layout({8}));
    }
  }

  // The message, and in `refusal` the rule and the index.
  std::string refused(const Buffers& v, const Buffers& f, const Buffers& s, const Buffers& w,
                      swa_fast::Refusal* refusal) {
    const auto before = contents();
    const auto prepare = [&] {
      Plan plan;
      plan.add(
          Op::kLerp, "values", v,
          {{"first", f}, {"second", s, Targets::kAverage, 1}, {"shown", w, Targets::kView, 0, 0}});
      plan.prepare();
    };
    const Error error = CHECK_THROWS(Error, prepare());
    CHECK(contents() == before);
    *refusal = error.refusal();
    return error.what();
  }

  std::vector<std::vector<unsigned char>> contents() const {
    std::vector<std::vector<unsigned char>> all;
    for (const auto* list : {&values, &first, &second, &shown}) {
      for (const Tensor& tensor : *list) all.push_back(tensor.memory);
    }
    return all;
  }
};

}  // namespace

TEST(the_rules_hold_for_every_list_of_targets) {
  Lists lists;
  swa_fast::Refusal refusal;
  // Spoils a copy of the buffers, and gives the message.
  const auto message = [&](const auto& spoil) {
    Buffers v = buffers_of(lists.values), f = buffers_of(lists.first), s = buffers_of(lists.second),
            w = buffers_of(lists.shown);
    spoil(v, f, s, w);
    return lists.refused(v, f, s, w, &refusal);
  };
  const auto is = [&](const char* rule, int64_t index) {
    return std::string(refusal.rule) == rule && refusal.index == index;
  };
  using B = Buffers;
  CHECK_EQ(message([](B&, B&, B& s, B&) { s.pop_back(); }),
           "second has 4 tensors, values has 5: the lists must be equally long");
  CHECK(is("length", -1));
  CHECK_EQ(message([](B&, B&, B&, B& w) { w.pop_back(); }),
           "shown has 4 tensors, first has 5: the lists must be equally long");
  CHECK(is("length", -1));
  CHECK_EQ(message([](B&, B&, B& s, B&) { s[3].read_only = true; }),
           "second[3] is read-only and would be written");
  CHECK(is("read-only", 3));
  const Layout other({4, 2});
  CHECK_EQ(message([&](B&, B&, B&, B& w) { w[2].shape = other.shape.data(), w[2].ndim = 2; }),
           "shown[2] has shape (4, 2), first[2] has shape (8,): the two must be equal");
  CHECK(is("shape", 2));
  CHECK_EQ(message([](B&, B&, B& s, B&) { s[1].dtype = kInt32; }),
           "second[1] has dtype int32: only floating-point tensors can be averaged (copy_ takes "
           "any type)");
  CHECK(is("dtype", 1));
  CHECK_EQ(message([](B&, B&, B&, B& w) { w[4].dtype = kInt32; }),
           "shown[4] has dtype int32, first[4] has dtype float32: conversion is between "
           "floating-point types only");
  CHECK(is("dtype", 4));
  CHECK_EQ(message([](B&, B&, B& s, B&) { s[0].data = static_cast<char*>(s[0].data) + 4; }),
           "second[0] is not aligned to its element size; make a copy first");
  CHECK(is("alignment", 0));
  CHECK_EQ(message([](B&, B&, B&, B& w) { w[2].data = nullptr; }),
           "shown[2] has no memory: its storage was freed");
  CHECK(is("memory", 2));

  const std::string rule =
      " overlap in memory: every tensor that is written must be disjoint from the others of the "
      "call";
  // Two averages of one value in one place, an average in the place of a view, a view in a value's.
  CHECK_EQ(message([](B&, B& f, B& s, B&) { s[2] = f[2]; }), "first[2] and second[2]" + rule);
  CHECK(is("overlap", -1));
  CHECK_EQ(message([](B&, B& f, B&, B& w) { w[3].data = f[3].data; }),
           "first[3] and shown[3]" + rule);
  CHECK_EQ(message([](B& v, B&, B&, B& w) { w[1].data = v[4].data; }),
           "shown[1] and values[4]" + rule);
  // A value that is one of its own averages would be another one for the next.
  CHECK_EQ(message([](B& v, B& f, B&, B&) { v[2].data = f[2].data; }),
           "first[2] and values[2]" + rule);
}

// With one target the arithmetic is a no-op in its place, as in a call.
TEST(a_value_may_be_its_only_average) {
  std::vector<Tensor> tensors = {Tensor(kFloat32, std::vector<float>{1, 2, 3})};
  std::vector<Tensor> shown = {Tensor(kFloat64, Layout({3}))};
  const Buffers b = buffers_of(tensors), w = buffers_of(shown);
  Plan plan;
  plan.add(Op::kLerp, "values", b, {{"averages", b}, {"shown", w, Targets::kView, 0, 0}});
  plan.prepare();
  const Action action = swa_fast::snapshot_action(swa_fast::mean_weight(3));
  plan.run(&action);
  CHECK(tensors[0].elements<float>() == std::vector<float>({1, 2, 3}));
  CHECK(shown[0].elements<double>() == std::vector<double>({1, 2, 3}));
}
