// Plans over CUDA tensors, on a grid that runs on the CPU: the bits of the CPU kernels, launches,
// streams and devices.
#include <memory>
#include <numeric>

#include "check.h"
#include "core/error.h"
#include "cuda_buffers.h"
#include "host_grid.h"
#include "kernel_cases.h"
#include "plans.h"

using swa_fast::Buffer;
using swa_fast::Error;
using swa_fast::Op;

namespace {

// One pair of every two storage types, with reference results, `size` elements each.
struct EveryPair {
  std::vector<Tensor> dst, src, lerp, cast;

  EveryPair(size_t size, size_t weight, cases::Random& random) {
    for_each_pair([&](auto to, auto from) {
      using Dst = typename decltype(to)::Type;
      using Src = typename decltype(from)::Type;
      const Expectation<Dst, Src> pool(size, random);
      dst.emplace_back(dtype_of<Dst>(), pool.dst);
      src.emplace_back(dtype_of<Src>(), pool.src);
      lerp.emplace_back(dtype_of<Dst>(), pool.lerp[weight]);
      cast.emplace_back(dtype_of<Dst>(), pool.cast);
    });
  }
};

void run(Op op, std::vector<Tensor>& dst, std::vector<Tensor>& src, swa_fast::Weight weight,
         const swa_fast::Counter* counter = nullptr, const swa_fast::cuda::Streams& streams = {}) {
  const auto dst_buffers = on_cuda(buffers_of(dst)), src_buffers = on_cuda(buffers_of(src));
  const swa_fast::Action action =
      counter != nullptr ? swa_fast::unconditional_action() : action_of(op, weight);
  plan_of(op, {"averages", "values", dst_buffers, src_buffers}, counter).run(&action, streams);
}

void check_all(const std::vector<Tensor>& got, const std::vector<Tensor>& expected, bool any_nan) {
  size_t pair = 0;
  for_each_pair([&](auto to, auto) {
    using Dst = typename decltype(to)::Type;
    const std::vector<Dst> want = expected[pair].elements<Dst>();
    CHECK_EQ(first_difference(got[pair].memory.data(), want.data(),
                              static_cast<int64_t>(want.size()), any_nan),
             -1);
    ++pair;
  });
}

Buffer counter_buffer(int64_t* value, int device = 0) {
  static const int64_t no_extent = 0;
  return {value, &no_extent, nullptr, 1, 0, {swa_fast::kCodeInt, 64}, false, cuda_device(device)};
}

std::vector<Tensor> floats(int count, int64_t size, float value) {
  return std::vector<Tensor>(
      static_cast<size_t>(count),
      Tensor(kFloat32, std::vector<float>(static_cast<size_t>(size), value)));
}

}  // namespace

TEST(every_pair_of_types_gives_the_reference_bits) {
  const host_grid::Installed installed;
  cases::Random random(31);
  for (const size_t size : {size_t{1}, size_t{7}, size_t{777}, size_t{4099}}) {
    for (size_t weight = 0; weight < weights().size(); ++weight) {
      EveryPair pairs(size, weight, random);
      auto dst = pairs.dst;
      run(Op::kLerp, dst, pairs.src, weights()[weight]);
      check_all(dst, pairs.lerp, true);
      dst = pairs.dst;
      run(Op::kCopy, dst, pairs.src, swa_fast::lerp_weight(1));
      check_all(dst, pairs.cast, false);
    }
  }
  CHECK(host_grid::record.entered.empty());
  CHECK_EQ(host_grid::record.max_entered, 1);
}

TEST(a_counter_gives_the_bits_of_its_number) {
  const host_grid::Installed installed;
  cases::Random random(32);
  for (int64_t count : {0, 1, 2, 998}) {
    EveryPair pairs(501, 0, random);
    auto by_number = pairs.dst, by_counter = pairs.dst;
    const Buffer buffer = counter_buffer(&count);
    const swa_fast::Counter counter = {"count", buffer};
    run(Op::kLerp, by_number, pairs.src, swa_fast::mean_weight(count));
    run(Op::kLerp, by_counter, pairs.src, swa_fast::lerp_weight(1), &counter);
    check_all(by_counter, by_number, count != 0);
  }
  // Also when the averages held NaN, and a weight 0 makes no difference to what is read.
  int64_t count = 0;
  const Buffer buffer = counter_buffer(&count);
  const swa_fast::Counter counter = {"count", buffer};
  auto averages = floats(1, 9, std::nanf("")), values = floats(1, 9, 2.5f);
  run(Op::kLerp, averages, values, swa_fast::lerp_weight(0), &counter);
  CHECK(averages[0].memory == values[0].memory);
  count = -1;
  run(Op::kLerp, averages, values, swa_fast::lerp_weight(1), &counter);
  CHECK(std::isnan(averages[0].elements<float>()[8]));
}

TEST(bits_are_copied_and_swapped_whatever_their_type_and_place) {
  const host_grid::Installed installed;
  cases::Random random(33);
  for (const swa_fast::DType dtype :
       {kBool, swa_fast::DType{swa_fast::kCodeInt, 16}, kInt32, kFloat64, kComplex128,
        swa_fast::DType{swa_fast::kCodeUInt, 24}}) {
    const int64_t step = dtype.itemsize();
    for (const int64_t a_offset : {0, 1, 3, 8}) {
      for (const int64_t b_offset : {0, 2, 8}) {
        const int64_t count = 3001;
        std::vector<unsigned char> a_memory(static_cast<size_t>(count * step + 64));
        auto b_memory = a_memory;
        for (auto& byte : a_memory) byte = static_cast<unsigned char>(random());
        for (auto& byte : b_memory) byte = static_cast<unsigned char>(random());
        const auto a_before = a_memory, b_before = b_memory;
        const Layout layout({count});
        std::vector<Buffer> a = {layout.buffer(a_memory.data() + 16 + a_offset, dtype)};
        std::vector<Buffer> b = {layout.buffer(b_memory.data() + 16 + b_offset, dtype)};
        a = on_cuda(a), b = on_cuda(b);
        auto a_expected = a_before, b_expected = b_before;
        std::memcpy(&a_expected[16 + a_offset], &b_before[16 + b_offset], count * step);
        run_call(Op::kCopy, {"dst", "src", a, b}, swa_fast::lerp_weight(1));
        CHECK(a_memory == a_expected && b_memory == b_before);
        a_memory = a_before;
        std::memcpy(&b_expected[16 + b_offset], &a_before[16 + a_offset], count * step);
        run_call(Op::kSwap, {"a", "b", a, b}, swa_fast::lerp_weight(1));
        CHECK(a_memory == a_expected && b_memory == b_expected);
      }
    }
  }
}

TEST(a_tensor_is_averaged_with_itself) {
  const host_grid::Installed installed;
  auto list = floats(1, 5000, 0.1f);
  const auto before = list[0].memory;
  run(Op::kLerp, list, list, swa_fast::mean_weight(2));
  CHECK(list[0].memory == before);
  CHECK_EQ(host_grid::record.launches.size(), 1u);
}

TEST(one_launch_up_to_the_limit) {
  using swa_fast::cuda::kLargeArguments;
  using swa_fast::cuda::kSmallArguments;
  const int few = swa_fast::cuda::table_rows(kSmallArguments, 1);
  for (const size_t arguments : {kSmallArguments, kLargeArguments}) {
    const int limit = swa_fast::cuda::table_rows(arguments, 1);
    for (const int pairs : {1, 167, 168, 1361, 1362, 5000}) {
      const host_grid::Installed installed(arguments);
      auto averages = floats(pairs, 3, 1.0f), values = floats(pairs, 3, 3.0f);
      run(Op::kLerp, averages, values, swa_fast::mean_weight(1));
      const auto& launches = host_grid::record.launches;
      CHECK_EQ(launches.size(), static_cast<size_t>((pairs + limit - 1) / limit));
      int launched = 0;
      for (const auto& launch : launches) {
        launched += launch.tensors;
        CHECK_EQ(launch.arguments, pairs <= few ? kSmallArguments : arguments);
      }
      CHECK_EQ(launched, pairs);
      for (const Tensor& tensor : averages) CHECK_EQ(tensor.elements<float>()[2], 2.0f);
    }
  }
}

TEST(types_are_grouped_however_they_alternate) {
  const host_grid::Installed installed;
  std::vector<Tensor> averages, values;
  for (int i = 0; i < 100; ++i) {
    averages.emplace_back(kFloat32, std::vector<float>(5, 1.0f));
    if (i % 2 == 0) {
      values.emplace_back(kFloat32, std::vector<float>(5, 3.0f));
    } else {
      values.emplace_back(kFloat64, std::vector<double>(5, 5.0));
    }
  }
  run(Op::kLerp, averages, values, swa_fast::mean_weight(1));
  CHECK_EQ(host_grid::record.launches.size(), 2u);
  for (size_t i = 0; i < averages.size(); ++i) {
    CHECK_EQ(averages[i].elements<float>()[4], i % 2 == 0 ? 2.0f : 3.0f);
  }
}

TEST(a_block_takes_one_vector_a_thread) {
  const host_grid::Installed installed;
  const int64_t tile = swa_fast::cuda::tile_positions(4);
  for (const int64_t size : {int64_t{1}, tile - 1, tile, tile + 1, 40 * tile + 3}) {
    auto averages = floats(1, size, 1.0f), values = floats(1, size, 3.0f);
    run(Op::kLerp, averages, values, swa_fast::mean_weight(1));
    CHECK_EQ(host_grid::record.launches.back().blocks,
             static_cast<uint32_t>((size + tile - 1) / tile));
    const auto result = averages[0].elements<float>();
    CHECK_EQ(std::count(result.begin(), result.end(), 2.0f), size);
  }
}

// More elements than a row takes: several rows, to the last element.
TEST(a_large_tensor_takes_several_rows) {
  const host_grid::Installed installed;
  const int64_t size = 2 * swa_fast::cuda::kMaxRow + 5;
  std::vector<unsigned char> a(static_cast<size_t>(size), 1), b(static_cast<size_t>(size), 2);
  b[0] = 3, b[swa_fast::cuda::kMaxRow] = 4, b.back() = 5;
  const Layout layout({size});
  const auto dst = on_cuda({layout.buffer(a.data(), kBool)}),
             src = on_cuda({layout.buffer(b.data(), kBool)});
  run_call(Op::kCopy, {"dst", "src", dst, src}, {});
  CHECK_EQ(host_grid::record.launches.size(), 1u);
  CHECK_EQ(host_grid::record.launches[0].rows, 3);
  CHECK(a == b);
}

// Memory of this size cannot be had; the rows and chunks can.
TEST(huge_tensors_are_cut) {
  const host_grid::Installed installed;
  host_grid::record.only_note = true;
  for (const int64_t size :
       {(int64_t{1} << 31) - 1, int64_t{1} << 31, (int64_t{1} << 33) + 5, (int64_t{1} << 43) + 3}) {
    host_grid::record.launches.clear();
    const Layout layout({size});
    const auto dst = on_cuda({layout.buffer(reinterpret_cast<void*>(uintptr_t{1} << 45))}),
               src = on_cuda({layout.buffer(reinterpret_cast<void*>(uintptr_t{3} << 45))});
    run_call(Op::kLerp, {"averages", "values", dst, src}, swa_fast::mean_weight(1));
    int64_t blocks = 0, rows = 0;
    for (const auto& launch : host_grid::record.launches) {
      CHECK(launch.blocks > 0 && launch.blocks <= swa_fast::cuda::kMaxChunks);
      blocks += launch.blocks;
      rows += launch.rows;
    }
    const int64_t tile = swa_fast::cuda::tile_positions(4);
    CHECK_EQ(blocks, (size + tile - 1) / tile);
    CHECK_EQ(rows, (size + swa_fast::cuda::kMaxRow - 1) / swa_fast::cuda::kMaxRow);
  }
}

TEST(each_device_has_its_stream) {
  const host_grid::Installed installed;
  auto averages = floats(6, 3, 1.0f), values = floats(6, 3, 3.0f);
  auto dst = buffers_of(averages), src = buffers_of(values);
  for (size_t i = 0; i < 6; ++i) {  // the last two stay on the CPU
    if (i < 4) dst[i].device = src[i].device = cuda_device(static_cast<int>(i % 2));
  }
  int mine = 0;
  swa_fast::cuda::Streams streams;
  streams.set({1, &mine, false});
  run_call(Op::kLerp, {"averages", "values", dst, src}, swa_fast::mean_weight(1), streams);
  const auto& record = host_grid::record;
  CHECK_EQ(record.launches.size(), 2u);
  CHECK_EQ(record.launches[0].device, 0);
  CHECK_EQ(record.launches[0].stream, swa_fast::cuda::kLegacyStream);
  CHECK_EQ(record.launches[1].device, 1);
  CHECK(record.launches[1].stream == &mine);
  CHECK(record.waits == std::vector<void*>({swa_fast::cuda::kLegacyStream}));
  CHECK(record.entered.empty());
  for (const Tensor& tensor : averages) CHECK_EQ(tensor.elements<float>()[2], 2.0f);
}

TEST(no_launch_and_no_device_for_nothing) {
  const host_grid::Installed installed;
  auto averages = floats(3, 0, 1.0f), values = floats(3, 0, 3.0f);
  run(Op::kLerp, averages, values, swa_fast::mean_weight(1));
  averages = floats(3, 5, 1.0f), values = floats(3, 5, 3.0f);
  run(Op::kLerp, averages, values, swa_fast::lerp_weight(0));
  CHECK(host_grid::record.launches.empty());
  CHECK_EQ(host_grid::record.max_entered, 0);
  CHECK_EQ(averages[0].elements<float>()[0], 1.0f);
}

TEST(failures_name_the_operation_and_the_error) {
  const auto failure = [](const char* expected) {
    auto averages = floats(3, 5, 1.0f), values = floats(3, 5, 3.0f);
    const Error error =
        CHECK_THROWS(Error, run(Op::kLerp, averages, values, swa_fast::mean_weight(1)));
    CHECK_EQ(std::string(error.what()), expected);
    CHECK(error.kind() == swa_fast::ErrorKind::kRuntime);
    CHECK(host_grid::record.entered.empty());
  };
  const host_grid::Installed installed;
  host_grid::record.fail_launch = 0;
  failure("launching the lerp kernel for 3 tensors on cuda:0 failed: cudaErrorOfTests (700)");
  // What may be under way is waited for before its memory is given back.
  CHECK_EQ(host_grid::record.waits.size(), 1u);
  host_grid::record = {};
  host_grid::record.fail_enter = 101;
  failure("making device cuda:0 current failed: cudaErrorOfTests (101)");
  host_grid::record = {};
  host_grid::record.fail_wait = 719;
  failure("waiting for the work on cuda:0 failed: cudaErrorOfTests (719)");
}

TEST(what_a_gpu_cannot_read_is_refused) {
  const host_grid::Installed installed;
  std::vector<float> a(9, 1.0f), b(9, 3.0f);
  const Layout layout({4});
  std::vector<Buffer> dst = {layout.buffer(reinterpret_cast<char*>(a.data()) + 2)};
  std::vector<Buffer> src = {layout.buffer(b.data())};
  dst = on_cuda(dst), src = on_cuda(src);
  const Error error = CHECK_THROWS(Error, plan_of(Op::kLerp, {"averages", "values", dst, src}));
  CHECK_EQ(std::string(error.what()),
           "averages[0] is not aligned to its element size; make a copy first");
  CHECK(error.kind() == swa_fast::ErrorKind::kBuffer);
}

TEST(counters_are_checked) {
  const host_grid::Installed installed;
  auto averages = floats(2, 8, 1.0f), values = floats(2, 8, 3.0f);
  int64_t count = 1;
  const auto refused = [&](const Buffer& buffer, int device) {
    const swa_fast::Counter counter = {"count", buffer};
    const auto dst = on_cuda(buffers_of(averages), device),
               src = on_cuda(buffers_of(values), device);
    const Error error =
        CHECK_THROWS(Error, plan_of(Op::kLerp, {"averages", "values", dst, src}, &counter));
    return std::string(error.what());
  };
  CHECK_EQ(refused(counter_buffer(&count), 1),
           "averages[0] is on cuda:1, count is on cuda:0: all must be on one device");
  Buffer narrow = counter_buffer(&count);
  narrow.dtype = kInt32;
  CHECK_EQ(refused(narrow, 0),
           "count must be an int, or a CUDA tensor of dtype int64 and shape (). Received: int32, "
           "shape ()");
  Buffer inside = counter_buffer(reinterpret_cast<int64_t*>(averages[1].memory.data() + 8));
  CHECK_EQ(refused(inside, 0), "averages[1] and count overlap in memory");
  for (const Tensor& tensor : averages) CHECK_EQ(tensor.elements<float>()[7], 1.0f);
}

TEST(without_a_backend_the_reason_is_told) {
  std::string reason;
  if (swa_fast::cuda::backend(&reason) != nullptr) {
    CHECK(swa_fast::cuda::info().reason.empty());
    return;
  }
  CHECK(!reason.empty());
  CHECK_EQ(swa_fast::cuda::info().reason, reason);
  auto averages = floats(1, 5, 1.0f), values = floats(1, 5, 3.0f);
  const Error error =
      CHECK_THROWS(Error, run(Op::kLerp, averages, values, swa_fast::mean_weight(1)));
  CHECK_EQ(std::string(error.what()), "averages[0] is on cuda:0, and " + reason);
}
