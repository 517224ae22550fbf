// Snapshots that the device leaves out if a value is NaN or infinite, and counts itself, on a grid
// that runs on the CPU: the bits of plans on the CPU whose counts the host keeps.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "core/error.h"
#include "core/finite.h"
#include "core/plan.h"
#include "cuda_buffers.h"
#include "host_grid.h"
#include "kernel_cases.h"
#include "storage_pairs.h"

using swa_fast::Action;
using swa_fast::Buffer;
using swa_fast::Error;
using swa_fast::Op;
using swa_fast::Plan;
using swa_fast::cuda::gate_words;

namespace {

swa_fast::DType int64_type() { return {swa_fast::kCodeInt, 64}; }

// A model of values of every storage type, complex numbers and integers, with K lists of averages.
struct Model {
  static constexpr int kAverages = 3;
  std::vector<Tensor> values, averages[kAverages];
  std::vector<size_t> copied;

  explicit Model(size_t size) {
    cases::Random random(17);
    for_each_storage([&](auto storage) {
      using T = typename decltype(storage)::Type;
      add(dtype_of<T>(), finite<T>(size, random), finite<T>(size, random));
    });
    add(kComplex128, finite<double>(2 * size, random), finite<double>(2 * size, random));
    copied = {values.size()};
    add(kInt32, std::vector<int32_t>(size, 7), std::vector<int32_t>(size, 9));
  }
  template <class T>
  void add(swa_fast::DType dtype, const std::vector<T>& value, const std::vector<T>& average) {
    values.emplace_back(dtype, value);
    for (auto& list : averages) list.emplace_back(dtype, average);
  }
  template <class T>
  static std::vector<T> finite(size_t count, cases::Random& random) {
    std::vector<T> numbers = cases::random_values<T>(count, random);
    for (T& number : numbers) {
      if (!swa_fast::is_finite(number)) number = T{};
    }
    return numbers;
  }

  Plan plan(bool cuda) {
    const auto on = [&](std::vector<Tensor>& list) {
      return cuda ? on_cuda(buffers_of(list)) : buffers_of(list);
    };
    std::vector<std::vector<Buffer>> lists;
    for (auto& list : averages) lists.push_back(on(list));
    std::vector<swa_fast::Targets> targets;
    for (int k = 0; k < kAverages; ++k) {
      targets.push_back({"averages",
                         lists[static_cast<size_t>(k)],
                         swa_fast::Targets::kAverage,
                         k,
                         -1,
                         {},
                         copied});
    }
    Plan made(true);
    made.add(Op::kLerp, "values", on(values), targets);
    made.prepare();
    return made;
  }
};

// The counts in memory of a device.
struct Counts {
  std::vector<int64_t> words;
  Layout layout;
  explicit Counts(int averages)
      : words(static_cast<size_t>(gate_words(averages))), layout({gate_words(averages)}) {}
  Buffer buffer(int device = 0) {
    Buffer made = layout.buffer(words.data(), int64_type());
    made.device = cuda_device(device);
    return made;
  }
};

Action mean_action(int64_t count) {
  Action action = swa_fast::snapshot_action(swa_fast::mean_weight(count));
  action.is_mean = true;
  return action;
}

// What the host asks for that believes that `count` snapshots were taken: a mean, a decay, and one
// that is due every second time.
std::vector<Action> actions_for(int64_t count, int64_t update) {
  const Action decay = swa_fast::snapshot_action(swa_fast::lerp_weight(0.125));
  const Action nothing = {Action::kNothing, {}};
  return {mean_action(count), count == 0 ? mean_action(0) : decay,
          update % 2 == 1 ? nothing : mean_action(count / 2)};
}

struct Bad {
  size_t tensor;
  size_t element;
  double number;
};

template <class T>
void put(Tensor* tensor, size_t element, T number) {
  std::memcpy(tensor->memory.data() + element * sizeof(T), &number, sizeof(T));
}

// Sets one number of a tensor of the storage type that stands at this place in the list.
void put_bad(Model* model, const Bad& bad) {
  size_t index = 0;
  for_each_storage([&](auto storage) {
    using T = typename decltype(storage)::Type;
    if (index++ != bad.tensor) return;
    put(&model->values[bad.tensor], bad.element, swa_fast::convert<T>(bad.number));
  });
  if (bad.tensor == index) put(&model->values[index], bad.element, bad.number);  // complex
}

}  // namespace

TEST(every_pattern_of_bits_is_told_as_the_standard_library_does) {
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const swa_fast::Float16 half = {static_cast<uint16_t>(bits)};
    const swa_fast::BFloat16 brain = {static_cast<uint16_t>(bits)};
    if (swa_fast::is_finite(half) != std::isfinite(swa_fast::to_float(half)) ||
        swa_fast::is_finite(brain) != std::isfinite(swa_fast::to_float(brain))) {
      CHECK_EQ(bits, -1);
    }
  }
  using Double = std::numeric_limits<double>;
  using Float = std::numeric_limits<float>;
  for (const double number : {0.0, -0.0, Double::max(), Double::lowest(), Double::denorm_min()}) {
    CHECK(swa_fast::is_finite(number));
  }
  for (const float number : {Float::max(), Float::lowest(), Float::denorm_min()}) {
    CHECK(swa_fast::is_finite(number));
  }
  for (const double number : {Double::infinity(), -Double::infinity(), Double::quiet_NaN()}) {
    CHECK(!swa_fast::is_finite(number) && !swa_fast::is_finite(static_cast<float>(number)));
  }
}

TEST(snapshots_left_out_by_the_device_have_the_bits_and_the_counts_of_the_host) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const size_t size : {size_t{1}, size_t{5}, size_t{3000}}) {
    const host_grid::Installed installed;
    Model device(size), host(size);
    Plan on_device = device.plan(true), on_host = host.plan(false);
    Counts counts(Model::kAverages);
    const auto gate = on_device.check_gate("gate", counts.buffer(), Model::kAverages);
    int64_t believed = 0, taken = 0, second_taken = 0, left_out = 0, second_left_out = 0;
    const std::vector<Bad> bad = {{0, 0, inf},
                                  {1, size - 1, std::nan("")},
                                  {2, size / 2, -inf},
                                  {3, size - 1, inf},
                                  {4, 2 * size - 1, std::nan("")}};
    for (int64_t update = 0; update < 14; ++update) {
      cases::Random random(static_cast<unsigned>(100 + update));
      for (Model* model : {&device, &host}) {
        size_t index = 0;
        for_each_storage([&](auto storage) {
          using T = typename decltype(storage)::Type;
          cases::Random same = random;
          const std::vector<T> fresh = Model::finite<T>(size, same);
          std::memcpy(model->values[index++].memory.data(), fresh.data(), size * sizeof(T));
        });
        std::memset(model->values[index].memory.data(), 0, 2 * size * sizeof(double));
      }
      const bool is_bad = update % 3 == 0;  // the first too
      if (is_bad) {
        for (Model* model : {&device, &host}) {
          put_bad(model, bad[static_cast<size_t>(update / 3) % bad.size()]);
        }
      }
      const std::vector<Action> asked = actions_for(believed, update);
      on_device.run_gated(asked.data(), {}, gate);
      ++believed;
      const bool second = update % 2 == 0;
      if (is_bad) {
        ++left_out;
        second_left_out += second;
      } else {
        std::vector<Action> expected = actions_for(taken, update);
        if (second) expected[2] = mean_action(second_taken);
        on_host.run(expected.data());
        ++taken;
        second_taken += second;
      }
      const std::vector<int64_t> told = {0,        taken,    taken,          second_taken,
                                         left_out, left_out, second_left_out};
      CHECK(counts.words == told);
      for (int k = 0; k < Model::kAverages; ++k) {
        for (size_t i = 0; i < device.values.size(); ++i) {
          CHECK_WITH(device.averages[k][i].memory == host.averages[k][i].memory,
                     std::to_string(update) + ", " + std::to_string(k) + ", " + std::to_string(i));
        }
      }
    }
    CHECK(host_grid::record.entered.empty());
  }
}

TEST(the_check_comes_first_and_the_count_last_on_one_stream) {
  const host_grid::Installed installed;
  std::vector<Tensor> averages = {{kFloat32, std::vector<float>(9, 1.0f)}};
  std::vector<Tensor> values = {{kFloat32, std::vector<float>(9, 3.0f)}};
  Plan plan(true);
  const auto from = on_cuda(buffers_of(values)), to = on_cuda(buffers_of(averages));
  plan.add(Op::kLerp, "values", from, {{"averages", to}});
  plan.prepare();
  Counts counts(1);
  const auto gate = plan.check_gate("gate", counts.buffer(), 1);
  swa_fast::cuda::Streams streams;
  void* const stream = reinterpret_cast<void*>(uintptr_t{7});
  streams.set({0, stream, false});
  const Action action = mean_action(3);
  plan.run_gated(&action, streams, gate);
  const auto& launches = host_grid::record.launches;
  CHECK_EQ(launches.size(), 3u);
  for (const auto& launch : launches) CHECK(launch.stream == stream && launch.device == 0);
  CHECK(launches[0].tensors == 0 && launches[0].rows == 1);
  CHECK_EQ(launches[1].tensors, 1);
  CHECK(launches[2].rows == 0 && launches[2].blocks == 1);
  CHECK(host_grid::record.waits.empty());
  CHECK_EQ(averages[0].elements<float>()[8], 3.0f);  // the first by the device's own count
  CHECK(counts.words == (std::vector<int64_t>{0, 1, 0}));
  // Values elsewhere, alike otherwise.
  std::vector<Tensor> others = {{kFloat32, std::vector<float>(9, std::nanf(""))}};
  CHECK(plan.matches(on_cuda(buffers_of(others))));
  plan.run_gated(&action, streams, gate);
  CHECK_EQ(averages[0].elements<float>()[8], 3.0f);
  CHECK(counts.words == (std::vector<int64_t>{0, 1, 1}));
  for (const int failing : {6, 7, 8}) {
    host_grid::record.fail_launch = failing;
    CHECK_THROWS(Error, plan.run_gated(&action, streams, gate));
    host_grid::record.launches.resize(6);
  }
}

TEST(what_a_gate_must_be) {
  const host_grid::Installed installed;
  std::vector<Tensor> averages = {{kFloat32, std::vector<float>(4, 1.0f)}};
  std::vector<Tensor> values = {{kFloat32, std::vector<float>(4, 3.0f)}};
  const auto refused = [&](int device, const Buffer& counts, int count) {
    Plan plan(true);
    auto from = buffers_of(values), to = buffers_of(averages);
    if (device >= 0) from = on_cuda(from, device), to = on_cuda(to, device);
    plan.add(Op::kLerp, "values", from, {{"averages", to}});
    plan.prepare();
    const Error error = CHECK_THROWS(Error, plan.check_gate("gate", counts, count));
    return std::string(error.what());
  };
  Counts counts(1);
  CHECK_EQ(refused(0, counts.buffer(), 2),
           "gate must be an int64 tensor of 5 elements for 2 averages, of which there may be 64. "
           "Received: int64, shape (3,)");
  Buffer narrow = counts.buffer();
  narrow.dtype = kInt32;
  CHECK(refused(0, narrow, 1).find("Received: int32") != std::string::npos);
  Counts many(65);
  CHECK(refused(0, many.buffer(), 65).find("may be 64") != std::string::npos);
  const std::string rule = ": it must be on one CUDA device with all averages and values";
  CHECK_EQ(refused(0, counts.buffer(1), 1), "gate is on cuda:1" + rule);
  CHECK_EQ(refused(-1, counts.buffer(), 1), "gate is on cuda:0" + rule);
  std::vector<Tensor> wide = {{int64_type(), std::vector<int64_t>(3, 0)}};
  Buffer inside = counts.buffer();
  inside.data = averages[0].memory.data() - 8;
  CHECK_EQ(refused(0, inside, 1), "averages[0] and gate overlap in memory");
}
