// Plan: what one call does to lists of tensors.
#include <cstring>
#include <string>

#include "buffers.h"
#include "check.h"
#include "core/error.h"
#include "float_control.h"
#include "kernel_cases.h"
#include "plans.h"

using swa_fast::Op;
using swa_fast::Plan;

namespace {

void call(Op op, std::vector<Tensor>& dst, std::vector<Tensor>& src, swa_fast::Weight weight) {
  const std::vector<swa_fast::Buffer> dst_buffers = buffers_of(dst), src_buffers = buffers_of(src);
  run_call(op, {"averages", "values", dst_buffers, src_buffers}, weight);
}

template <class T>
constexpr swa_fast::DType dtype_of() {
  if constexpr (std::is_same_v<T, swa_fast::BFloat16>) return kBFloat16;
  return {swa_fast::kCodeFloat, 8 * sizeof(T)};
}

template <class T>
void check_elements(const Tensor& tensor, const std::vector<T>& expected, bool any_nan) {
  const auto count = static_cast<int64_t>(expected.size());
  CHECK_EQ(tensor.memory.size(), expected.size() * sizeof(T));
  CHECK_EQ(first_difference(tensor.memory.data(), expected.data(), count, any_nan), -1);
}

const auto kNan = static_cast<float>(std::nan(""));

}  // namespace

TEST(one_call_serves_every_pair_of_types) {
  cases::Random random(19);
  for (const Op op : {Op::kLerp, Op::kCopy}) {
    std::vector<Tensor> dst, src;
    std::vector<Tensor> expected;
    for_each_pair([&](auto to, auto from) {
      using Dst = typename decltype(to)::Type;
      using Src = typename decltype(from)::Type;
      const Expectation<Dst, Src> pool(777, random);
      dst.emplace_back(dtype_of<Dst>(), pool.dst);
      src.emplace_back(dtype_of<Src>(), pool.src);
      expected.emplace_back(dtype_of<Dst>(), op == Op::kLerp ? pool.lerp[0] : pool.cast);
    });
    call(op, dst, src, weights()[0]);
    size_t pair = 0;
    for_each_pair([&](auto to, auto) {
      using Dst = typename decltype(to)::Type;
      check_elements(dst[pair], expected[pair].elements<Dst>(), op == Op::kLerp);
      ++pair;
    });
  }
}

TEST(a_mean_of_many_snapshots_is_their_mean) {
  std::vector<Tensor> averages = {Tensor(kFloat64, std::vector<double>{kNan, kNan})};
  for (int64_t count = 0; count < 100; ++count) {
    const double snapshot = static_cast<double>(count);
    std::vector<Tensor> values = {Tensor(kFloat32, std::vector<float>{float(snapshot), 3.0f})};
    call(Op::kLerp, averages, values, swa_fast::mean_weight(count));
  }
  const std::vector<double> mean = averages[0].elements<double>();
  CHECK_WITH(std::fabs(mean[0] - 49.5) < 1e-12, std::to_string(mean[0]));
  CHECK_EQ(mean[1], 3.0);
}

TEST(weight_one_copies_whatever_was_there) {
  const std::vector<float> values = {1.0f, -0.0f, kNan, HUGE_VALF};
  std::vector<Tensor> dst = {Tensor(kFloat32, std::vector<float>{kNan, 1, HUGE_VALF, -HUGE_VALF})};
  std::vector<Tensor> src = {Tensor(kFloat32, values)};
  call(Op::kLerp, dst, src, swa_fast::mean_weight(0));
  CHECK(dst[0].memory == src[0].memory);
}

TEST(weight_zero_writes_nothing) {
  for (const double zero : {0.0, -0.0}) {
    std::vector<Tensor> dst = {Tensor(kFloat32, std::vector<float>{-0.0f, 1, kNan, 4})};
    std::vector<Tensor> src = {Tensor(kFloat32, std::vector<float>{kNan, kNan, 3, HUGE_VALF})};
    const std::vector<unsigned char> before = dst[0].memory;
    call(Op::kLerp, dst, src, swa_fast::lerp_weight(zero));
    CHECK(dst[0].memory == before);
  }
}

// Also for a thread that reads subnormals as zero.
TEST(the_smallest_weight_is_not_zero) {
  for (const FloatControl control : unusual_float_controls()) {
    std::vector<Tensor> dst = {Tensor(kFloat64, std::vector<double>{0.0})};
    std::vector<Tensor> src = {Tensor(kFloat64, std::vector<double>{1e308})};
    const FloatControl before = set_float_control(control);
    call(Op::kLerp, dst, src, swa_fast::lerp_weight(5e-324));
    set_float_control(before);
    CHECK_EQ(dst[0].elements<double>()[0], 1e308 * 5e-324);
  }
}

TEST(complex_numbers_are_averaged_by_parts) {
  std::vector<Tensor> dst = {Tensor(kComplex64, std::vector<float>{0, 2, 4, -8}),
                             Tensor(kComplex128, std::vector<double>{1, 2})};
  std::vector<Tensor> src = {Tensor(kComplex128, std::vector<double>{2, 4, 8, 8}),
                             Tensor(kComplex64, std::vector<float>{2, 4})};
  call(Op::kLerp, dst, src, swa_fast::lerp_weight(0.5));
  CHECK(dst[0].elements<float>() == std::vector<float>({1, 3, 6, 0}));
  CHECK(dst[1].elements<double>() == std::vector<double>({1.5, 3}));
  call(Op::kCopy, dst, src, swa_fast::lerp_weight(1));
  CHECK(dst[0].elements<float>() == std::vector<float>({2, 4, 8, 8}));
}

TEST(copy_takes_any_type) {
  std::vector<Tensor> dst = {Tensor(kInt32, Layout({3})), Tensor(kBool, Layout({5})),
                             Tensor({10, 8}, Layout({2}))};
  std::vector<Tensor> src = {Tensor(kInt32, std::vector<int32_t>{1, -2, INT32_MIN}),
                             Tensor(kBool, std::vector<uint8_t>{1, 0, 1, 1, 0}),
                             Tensor({10, 8}, std::vector<uint8_t>{7, 250})};
  call(Op::kCopy, dst, src, swa_fast::lerp_weight(1));
  for (size_t i = 0; i < dst.size(); ++i) CHECK(dst[i].memory == src[i].memory);
}

TEST(swap_exchanges_bits) {
  cases::Random random(20);
  std::vector<Tensor> a, b;
  for (const int64_t count : {1, 3, 100, 4097}) {
    a.emplace_back(kFloat32, cases::random_values<float>(count, random));
    b.emplace_back(kFloat32, cases::random_values<float>(count, random));
    a.emplace_back(kInt32, std::vector<int32_t>(count, 1));
    b.emplace_back(kInt32, std::vector<int32_t>(count, 2));
  }
  const std::vector<Tensor> a_before = a, b_before = b;
  call(Op::kSwap, a, b, swa_fast::lerp_weight(1));
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].memory == b_before[i].memory);
    CHECK(b[i].memory == a_before[i].memory);
  }
}

TEST(empty_and_zero_dimensional_tensors) {
  const auto make = [](float value) {
    std::vector<Tensor> list = {Tensor(kFloat32, Layout({0})), Tensor(kFloat32, Layout({})),
                                Tensor(kFloat32, Layout({3, 0, 2}, {5, 5, 5})),
                                Tensor(kFloat32, std::vector<float>{value}),
                                Tensor(kFloat32, Layout({0, 4}))};
    std::memcpy(list[1].memory.data(), &value, sizeof(value));
    return list;
  };
  std::vector<Tensor> averages = make(1.0f), values = make(3.0f);
  call(Op::kLerp, averages, values, swa_fast::mean_weight(1));
  CHECK_EQ(averages[1].elements<float>()[0], 2.0f);
  CHECK_EQ(averages[3].elements<float>()[0], 2.0f);

  std::vector<Tensor> only_empty = {Tensor(kFloat32, Layout({0}))}, none;
  for (std::vector<Tensor>* const list : {&only_empty, &none}) {
    const std::vector<swa_fast::Buffer> buffers = buffers_of(*list);
    Plan plan = plan_of(Op::kLerp, {"averages", "values", buffers, buffers});
    CHECK(plan.empty());
    const swa_fast::Action action = action_of(Op::kLerp, weights()[0]);
    plan.run(&action);
  }
}

TEST(dense_layouts_that_agree_work_in_memory_order) {
  const Layout channels_last({1, 2, 2, 2}, {8, 1, 4, 2});
  std::vector<Tensor> averages = {Tensor(kFloat32, channels_last)};
  std::vector<Tensor> values = {Tensor(kFloat16, channels_last)};
  for (size_t i = 0; i < 8; ++i) {
    const float average = 2.0f * static_cast<float>(i);
    const auto value = swa_fast::convert<swa_fast::Float16>(average + 1.0f);
    std::memcpy(&averages[0].memory[4 * i], &average, 4);
    std::memcpy(&values[0].memory[2 * i], &value, 2);
  }
  call(Op::kLerp, averages, values, swa_fast::lerp_weight(0.5));
  CHECK(averages[0].elements<float>() ==
        std::vector<float>({0.5f, 2.5f, 4.5f, 6.5f, 8.5f, 10.5f, 12.5f, 14.5f}));
}

TEST(a_tensor_with_itself) {
  std::vector<Tensor> list = {Tensor(kFloat32, std::vector<float>{1, 2, 1e30f, 0.1f})};
  const std::vector<unsigned char> before = list[0].memory;
  for (const Op op : {Op::kLerp, Op::kCopy, Op::kSwap}) {
    call(op, list, list, swa_fast::mean_weight(2));
    CHECK(list[0].memory == before);
  }
  // Infinity minus infinity is NaN: the arithmetic is done here too.
  std::vector<Tensor> infinite = {Tensor(kFloat32, std::vector<float>{HUGE_VALF})};
  call(Op::kLerp, infinite, infinite, swa_fast::mean_weight(2));
  CHECK(std::isnan(infinite[0].elements<float>()[0]));
}

// Values read by several averages, the same tensor more than once.
TEST(a_value_may_be_shared) {
  std::vector<Tensor> dst = {Tensor(kFloat32, std::vector<float>{0, 0}),
                             Tensor(kFloat32, std::vector<float>{4, 4})};
  std::vector<Tensor> src = {Tensor(kFloat32, std::vector<float>{2, 6})};
  const std::vector<swa_fast::Buffer> dst_buffers = buffers_of(dst);
  const std::vector<swa_fast::Buffer> src_buffers = {src[0].buffer(), src[0].buffer()};
  run_call(Op::kLerp, {"averages", "values", dst_buffers, src_buffers}, swa_fast::lerp_weight(0.5));
  CHECK(dst[0].elements<float>() == std::vector<float>({1, 3}));
  CHECK(dst[1].elements<float>() == std::vector<float>({3, 5}));
}

TEST(a_read_only_source_is_read) {
  std::vector<Tensor> dst = {Tensor(kFloat32, std::vector<float>{0})};
  std::vector<Tensor> src = {Tensor(kFloat32, std::vector<float>{2})};
  src[0].read_only = true;
  call(Op::kLerp, dst, src, swa_fast::lerp_weight(0.5));
  CHECK_EQ(dst[0].elements<float>()[0], 1.0f);
}

// What is copied in the call is no part of the mean, and the weight is none of its business.
TEST(copies_go_along) {
  for (const double weight : {0.0, 0.5, 1.0}) {
    std::vector<Tensor> dst = {Tensor(kFloat32, std::vector<float>{0, 8})};
    std::vector<Tensor> src = {Tensor(kFloat32, std::vector<float>{4, 4})};
    std::vector<Tensor> to = {Tensor({swa_fast::kCodeInt, 64}, std::vector<int64_t>{1, 2, 3}),
                              Tensor(kFloat32, std::vector<float>{7})};
    std::vector<Tensor> from = {Tensor({swa_fast::kCodeInt, 64}, std::vector<int64_t>{4, 5, 6}),
                                Tensor({swa_fast::kCodeFloat, 64}, std::vector<double>{9})};
    const auto d = buffers_of(dst), s = buffers_of(src), t = buffers_of(to), f = buffers_of(from);
    const swa_fast::TensorLists copies = {"copies[0]", "copies[1]", t, f};
    const swa_fast::Action action = action_of(Op::kLerp, swa_fast::lerp_weight(weight));
    plan_of(Op::kLerp, {"averages", "values", d, s}, nullptr, &copies).run(&action);
    const auto w = static_cast<float>(weight);
    CHECK(dst[0].elements<float>() == std::vector<float>({4 * w, 8 - 4 * w}));
    CHECK(to[0].elements<int64_t>() == std::vector<int64_t>({4, 5, 6}));
    CHECK(to[1].elements<float>() == std::vector<float>({9}));
  }
}

TEST(an_average_and_a_copy_must_not_meet) {
  std::vector<Tensor> dst = {Tensor(kFloat32, std::vector<float>{0, 8})};
  std::vector<Tensor> src = {Tensor(kFloat32, std::vector<float>{4, 4})};
  const auto d = buffers_of(dst), s = buffers_of(src);
  const swa_fast::TensorLists copies = {"copies[0]", "copies[1]", s, d};
  const swa_fast::Error error = CHECK_THROWS(
      swa_fast::Error, plan_of(Op::kLerp, {"averages", "values", d, s}, nullptr, &copies));
  CHECK_EQ(std::string(error.what()).find("copies[0][0] and values[0] overlap"), 0u);
  CHECK(dst[0].elements<float>() == std::vector<float>({0, 8}));
}
