// Plan refuses what breaks the contract, names it, and has written nothing by then.
#include <functional>

#include "buffers.h"
#include "check.h"
#include "core/error.h"
#include "core/weight.h"
#include "plans.h"

using swa_fast::Error;
using swa_fast::ErrorKind;
using swa_fast::Op;
using swa_fast::Plan;

namespace {

// Five pairs that any operation would accept; a test spoils one, at index 3, behind three that are
// right and before one more.
struct Call {
  std::vector<Tensor> dst, src;

  Call() {
    for (int i = 0; i < 5; ++i) {
      dst.emplace_back(kFloat32, std::vector<float>(6, 1.0f + static_cast<float>(i)));
      src.emplace_back(kFloat32, std::vector<float>(6, 10.0f + static_cast<float>(i)));
    }
  }

  std::vector<std::vector<unsigned char>> contents() const {
    std::vector<std::vector<unsigned char>> all;
    for (const Tensor& tensor : dst) all.push_back(tensor.memory);
    for (const Tensor& tensor : src) all.push_back(tensor.memory);
    return all;
  }
};

using Buffers = std::vector<swa_fast::Buffer>;

// The rule that a call breaks, and the index of the pair, as the error must tell them.
struct Rule {
  const char* name;
  int64_t index = 3;
};

// Checks that the call is refused with exactly this error and that no byte has changed.
void check_refused(Op op, Call& call, const Buffers& dst, const Buffers& src, ErrorKind kind,
                   const Rule& rule, const std::string& message, double weight = 0.5) {
  const auto before = call.contents();
  const Error error = CHECK_THROWS(
      Error, run_call(op, {"averages", "values", dst, src}, swa_fast::lerp_weight(weight)));
  CHECK_EQ(std::string(error.what()), message);
  CHECK_EQ(static_cast<int>(error.kind()), static_cast<int>(kind));
  CHECK_EQ(std::string(error.refusal().rule), rule.name);
  CHECK_EQ(error.refusal().index, rule.index);
  CHECK(call.contents() == before);
}

void check_refused(Op op, Call& call, ErrorKind kind, const Rule& rule, const std::string& message,
                   double weight = 0.5) {
  check_refused(op, call, buffers_of(call.dst), buffers_of(call.src), kind, rule, message, weight);
}

// The two ends of a lerp's weight do no arithmetic, and keep its rules.
void check_lerp_refused(Call& call, ErrorKind kind, const Rule& rule, const std::string& message) {
  for (const double weight : {0.0, 0.5, 1.0}) {
    check_refused(Op::kLerp, call, kind, rule, message, weight);
  }
}

void check_all_refused(Call& call, ErrorKind kind, const Rule& rule, const std::string& message) {
  check_lerp_refused(call, kind, rule, message);
  for (const Op op : {Op::kTfaMean, Op::kCopy, Op::kSwap}) {
    check_refused(op, call, kind, rule, message);
  }
}

}  // namespace

TEST(the_unspoiled_call_is_accepted) {
  for (const Op op : {Op::kLerp, Op::kTfaMean, Op::kCopy, Op::kSwap}) {
    Call call;
    const auto before = call.contents();
    const Buffers dst = buffers_of(call.dst), src = buffers_of(call.src);
    Plan plan = plan_of(op, {"averages", "values", dst, src});
    CHECK(!plan.empty());
    CHECK(call.contents() == before);  // a plan is not yet a deed
    const swa_fast::Action action = action_of(op, swa_fast::lerp_weight(0.5));
    plan.run(&action);
    CHECK(call.contents() != before);
  }
}

TEST(lists_of_different_lengths) {
  Call call;
  call.src.pop_back();
  check_all_refused(call, ErrorKind::kValue, {"length", -1},
                    "averages has 5 tensors, values has 4: the lists must be equally long");
}

TEST(different_shapes) {
  const auto message = [](const char* dst, const char* src) {
    return std::string("averages[3] has shape ") + dst + ", values[3] has shape " + src +
           ": the two must be equal";
  };
  Call call;
  call.src[3] = Tensor(kFloat32, Layout({2, 3}));
  check_all_refused(call, ErrorKind::kValue, {"shape"}, message("(6,)", "(2, 3)"));
  call.dst[3] = Tensor(kFloat32, Layout({3, 2}));
  check_all_refused(call, ErrorKind::kValue, {"shape"}, message("(3, 2)", "(2, 3)"));
  call.dst[3] = Tensor(kFloat32, Layout({}));
  check_all_refused(call, ErrorKind::kValue, {"shape"}, message("()", "(2, 3)"));
  call.dst[3] = Tensor(kFloat32, Layout({0}));
  call.src[3] = Tensor(kFloat32, Layout({0, 1}));
  check_all_refused(call, ErrorKind::kValue, {"shape"}, message("(0,)", "(0, 1)"));
}

TEST(read_only_destination) {
  Call call;
  call.dst[3].read_only = true;
  check_all_refused(call, ErrorKind::kBuffer, {"read-only"},
                    "averages[3] is read-only and would be written");
}

TEST(read_only_source_of_a_swap) {
  Call call;
  call.src[3].read_only = true;
  check_refused(Op::kSwap, call, ErrorKind::kBuffer, {"read-only"},
                "values[3] is read-only and would be written");
}

TEST(integers_and_bools_are_not_averaged) {
  Call call;
  call.dst[3] = Tensor(kInt32, Layout({6}));
  check_lerp_refused(call, ErrorKind::kType, {"dtype"},
                     "averages[3] has dtype int32: only floating-point tensors can be averaged "
                     "(copy_ takes any type)");
  call.dst[3] = Tensor(kFloat32, Layout({6}));
  call.src[3] = Tensor(kBool, Layout({6}));
  check_lerp_refused(call, ErrorKind::kType, {"dtype"},
                     "values[3] has dtype bool: only floating-point tensors can be averaged "
                     "(copy_ takes any type)");
  // Not even if there are none of them.
  call.dst[3] = Tensor(kInt32, Layout({0}));
  call.src[3] = Tensor(kInt32, Layout({0}));
  check_lerp_refused(call, ErrorKind::kType, {"dtype"},
                     "averages[3] has dtype int32: only floating-point tensors can be averaged "
                     "(copy_ takes any type)");
}

TEST(conversion_is_between_floats) {
  Call call;
  call.src[3] = Tensor(kInt32, Layout({6}));
  check_refused(Op::kCopy, call, ErrorKind::kType, {"dtype"},
                "averages[3] has dtype float32, values[3] has dtype int32: conversion is between "
                "floating-point types only");
  call.dst[3] = Tensor(kBool, Layout({6}));
  check_refused(Op::kCopy, call, ErrorKind::kType, {"dtype"},
                "averages[3] has dtype bool, values[3] has dtype int32: conversion is between "
                "floating-point types only");
}

TEST(complex_pairs_with_complex) {
  Call call;
  call.src[3] = Tensor(kComplex64, Layout({6}));
  const std::string message =
      "averages[3] has dtype float32, values[3] has dtype complex64: complex tensors pair with "
      "complex tensors only";
  check_lerp_refused(call, ErrorKind::kType, {"dtype"}, message);
  check_refused(Op::kCopy, call, ErrorKind::kType, {"dtype"}, message);
}

TEST(swapped_types_are_equal) {
  Call call;
  call.src[3] = Tensor(kFloat64, Layout({6}));
  check_refused(Op::kSwap, call, ErrorKind::kType, {"dtype"},
                "averages[3] has dtype float32, values[3] has dtype float64: swapped tensors must "
                "have the same dtype");
}

TEST(tensors_that_are_not_dense) {
  Call call;
  call.dst[3] = Tensor(kFloat32, Layout({2, 3}));
  call.src[3] = Tensor(kFloat32, Layout({2, 3}));
  call.src[3].layout = Layout({2, 3}, {6, 2});
  const auto message = [](const char* name, const char* strides) {
    return std::string(name) + " is not contiguous: shape (2, 3), strides " + strides +
           " in elements. Tensors must fill a solid block of memory; make a contiguous copy first";
  };
  check_all_refused(call, ErrorKind::kBuffer, {"layout"}, message("values[3]", "(6, 2)"));
  call.dst[3].layout = Layout({2, 3}, {0, 1});  // a broadcast row
  check_all_refused(call, ErrorKind::kBuffer, {"layout"}, message("averages[3]", "(0, 1)"));
  call.dst[3].layout = Layout({2, 3}, {-3, 1});  // upside down
  check_all_refused(call, ErrorKind::kBuffer, {"layout"}, message("averages[3]", "(-3, 1)"));
  call.src[3].layout = call.dst[3].layout;  // alike, but not dense
  check_all_refused(call, ErrorKind::kBuffer, {"layout"}, message("averages[3]", "(-3, 1)"));
}

TEST(dense_tensors_in_different_orders) {
  Call call;
  call.dst[3] = Tensor(kFloat32, Layout({2, 3}));
  call.src[3] = Tensor(kFloat32, Layout({2, 3}, {1, 2}));
  check_all_refused(call, ErrorKind::kBuffer, {"layout"},
                    "averages[3] has strides (3, 1), values[3] has strides (1, 2) in elements: "
                    "both must be laid out in memory alike");
}

TEST(tensors_without_memory) {
  for (const bool is_src : {false, true}) {
    Call call;
    Buffers dst = buffers_of(call.dst), src = buffers_of(call.src);
    (is_src ? src : dst)[3].data = nullptr;
    for (const Op op : {Op::kLerp, Op::kTfaMean, Op::kCopy, Op::kSwap}) {
      check_refused(op, call, dst, src, ErrorKind::kBuffer, {"memory"},
                    std::string(is_src ? "values[3]" : "averages[3]") +
                        " has no memory: its storage was freed");
    }
  }
}

TEST(misaligned_elements) {
  for (const bool is_src : {false, true}) {
    Call call;
    Tensor bytes(kBool, Layout({25}));
    Buffers dst = buffers_of(call.dst), src = buffers_of(call.src);
    (is_src ? src : dst)[3].data = bytes.memory.data() + 1;
    const std::string message = std::string(is_src ? "values[3]" : "averages[3]") +
                                " is not aligned to its element size; make a copy first";
    for (const double weight : {0.0, 0.5, 1.0}) {
      check_refused(Op::kLerp, call, dst, src, ErrorKind::kBuffer, {"alignment"}, message, weight);
    }
    CHECK(bytes.memory == std::vector<unsigned char>(25));
    // Bytes are copied and exchanged wherever they lie.
    const std::vector<unsigned char> before(static_cast<unsigned char*>(dst[3].data),
                                            static_cast<unsigned char*>(dst[3].data) + 24);
    run_call(Op::kSwap, {"averages", "values", dst, src}, swa_fast::lerp_weight(1));
    CHECK(std::memcmp(src[3].data, before.data(), 24) == 0);
    run_call(Op::kCopy, {"averages", "values", dst, src}, swa_fast::lerp_weight(1));
    CHECK(std::memcmp(dst[3].data, before.data(), 24) == 0);
  }
}

TEST(devices) {
  const swa_fast::Device cuda = {swa_fast::DeviceType::kCuda, 1, 2};
  Call call;
  call.src[3].device = cuda;
  check_all_refused(call, ErrorKind::kValue, {"device"},
                    "averages[3] is on cpu, values[3] is on cuda:1: the two must be on one device");
  call.dst[3].device = cuda;
  std::string reason;
  if (swa_fast::cuda::backend(&reason) == nullptr) {
    check_all_refused(call, ErrorKind::kRuntime, {"device"},
                      "averages[3] is on cuda:1, and " + reason);
  }
  call.dst[3].device = call.src[3].device = {swa_fast::DeviceType::kOther, 0, 8};
  check_all_refused(call, ErrorKind::kRuntime, {"device"},
                    "averages[3] is on a device that swa_fast cannot reach (DLPack device type 8, "
                    "index 0): move the tensors to the CPU first");
}

TEST(overlapping_memory) {
  Call call;
  const auto message = [](const char* both) {
    return std::string(both) +
           " overlap in memory: every tensor that is written must be disjoint from the others of "
           "the call";
  };
  const auto check_spoiled = [&](const std::function<void(Buffers&, Buffers&)>& spoil,
                                 const char* both) {
    Buffers dst = buffers_of(call.dst), src = buffers_of(call.src);
    spoil(dst, src);
    for (const double weight : {0.0, 0.5, 1.0}) {
      check_refused(Op::kLerp, call, dst, src, ErrorKind::kValue, {"overlap", -1}, message(both),
                    weight);
    }
    check_refused(Op::kCopy, call, dst, src, ErrorKind::kValue, {"overlap", -1}, message(both));
  };
  check_spoiled([](Buffers& dst, Buffers&) { dst[3].data = dst[1].data; },
                "averages[1] and averages[3]");
  check_spoiled([](Buffers& dst, Buffers& src) { src[3].data = dst[1].data; },
                "averages[1] and values[3]");
  // Half a tensor further, in its own average.
  Tensor both(kFloat32, Layout({9}));
  check_spoiled(
      [&](Buffers& dst, Buffers& src) {
        dst[3].data = both.memory.data();
        src[3].data = both.memory.data() + 12;
      },
      "averages[3] and values[3]");
  CHECK(both.memory == std::vector<unsigned char>(36));

  Buffers dst = buffers_of(call.dst), src = buffers_of(call.src);
  src[3].data = src[1].data;  // a shared source is written by a swap
  check_refused(Op::kSwap, call, dst, src, ErrorKind::kValue, {"overlap", -1},
                message("values[1] and values[3]"));
}

TEST(the_first_pair_at_fault_is_named) {
  Call call;
  call.dst[1].read_only = true;
  call.src[2] = Tensor(kFloat32, Layout({7}));
  check_all_refused(call, ErrorKind::kBuffer, {"read-only", 1},
                    "averages[1] is read-only and would be written");
}
