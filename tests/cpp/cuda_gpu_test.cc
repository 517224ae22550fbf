// The kernels on a real GPU, against the kernels of the CPU. For compute-sanitizer too: memory is
// allocated tensor by tensor, with no room beyond what a tensor needs. Without a GPU it exits with
// 77, which ctest reports as skipped.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "check.h"
#include "core/combine.h"
#include "core/error.h"
#include "cuda/side_copies.h"
#include "cuda_buffers.h"
#include "kernel_cases.h"
#include "plans.h"

using swa_fast::Buffer;
using swa_fast::Op;
using swa_fast::Plan;
using swa_fast::cuda::Streams;

namespace {

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error));
}

// A copy of a host tensor in device memory of its own, `lead` bytes behind an aligned address.
class DeviceCopy {
 public:
  DeviceCopy(const Tensor& host, size_t lead) : size_(host.memory.size()), lead_(lead) {
    require(cudaMalloc(&memory_, size_ + lead), "cudaMalloc");
    require(cudaMemcpy(data(), host.memory.data(), size_, cudaMemcpyHostToDevice), "upload");
  }
  DeviceCopy(DeviceCopy&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), size_(other.size_), lead_(other.lead_) {}
  ~DeviceCopy() { cudaFree(memory_); }

  char* data() const { return static_cast<char*>(memory_) + lead_; }
  std::vector<unsigned char> download() const {
    std::vector<unsigned char> bytes(size_);
    require(cudaMemcpy(bytes.data(), data(), size_, cudaMemcpyDeviceToHost), "download");
    return bytes;
  }

 private:
  void* memory_ = nullptr;
  size_t size_;
  size_t lead_;
};

// Two lists of tensors, on the host and on device 0.
struct Lists {
  std::vector<Tensor> dst, src;
  std::vector<DeviceCopy> dst_device, src_device;

  template <class Lead>
  void upload(const Lead& lead) {
    for (size_t i = 0; i < dst.size(); ++i) {
      dst_device.emplace_back(dst[i], lead(i, dst[i]));
      src_device.emplace_back(src[i], lead(i + 1, src[i]));
    }
  }
  std::vector<Buffer> on_device(std::vector<Tensor>& host, const std::vector<DeviceCopy>& copies) {
    std::vector<Buffer> buffers = buffers_of(host);
    for (size_t i = 0; i < buffers.size(); ++i) {
      buffers[i].data = copies[i].data();
      buffers[i].device = cuda_device(0);
    }
    return buffers;
  }

  // Runs the same plan on both and compares. NaN of arithmetic differ in their payload.
  void check(Op op, const swa_fast::Weight& weight, void* stream, bool any_nan) {
    const auto d = on_device(dst, dst_device), s = on_device(src, src_device);
    Streams streams;
    streams.set({0, stream, true});
    run_call(op, {"averages", "values", d, s}, weight, streams);
    const auto host_d = buffers_of(dst), host_s = buffers_of(src);
    run_call(op, {"averages", "values", host_d, host_s}, weight);
    for (size_t i = 0; i < dst.size(); ++i) {
      CHECK_WITH(same(dst_device[i].download(), dst[i], any_nan), "dst " + std::to_string(i));
      CHECK_WITH(same(src_device[i].download(), src[i], any_nan), "src " + std::to_string(i));
    }
  }

  static bool same(const std::vector<unsigned char>& got, const Tensor& expected, bool any_nan) {
    if (!any_nan || expected.dtype.code == swa_fast::kCodeInt) return got == expected.memory;
    bool equal = true;
    for_each_storage([&](auto storage) {
      using T = typename decltype(storage)::Type;
      const bool is_type = dtype_of<T>() == expected.dtype;
      if (!is_type) return;
      const std::vector<T> want = expected.elements<T>();
      equal =
          first_difference(got.data(), want.data(), static_cast<int64_t>(want.size()), true) < 0;
    });
    return equal;
  }

  // `count` tensors of every pair of types, of sizes around every border.
  void fill(int count, cases::Random& random) {
    const int64_t sizes[] = {1, 3, 4, 255, 1023, 1024, 1025, 4096, 4099, 20001};
    for (int i = 0; i < count; ++i) {
      const int64_t size = sizes[static_cast<size_t>(i) % std::size(sizes)];
      for_each_pair([&](auto to, auto from) {
        using Dst = typename decltype(to)::Type;
        using Src = typename decltype(from)::Type;
        dst.emplace_back(dtype_of<Dst>(), cases::random_values<Dst>(size_t(size), random));
        src.emplace_back(dtype_of<Src>(), cases::random_values<Src>(size_t(size), random));
      });
    }
  }
};

size_t aligned(size_t, const Tensor&) { return 0; }
// Whole elements, so that one side is where a vector begins and the other is not.
size_t ragged(size_t i, const Tensor& tensor) {
  return i % 5 * static_cast<size_t>(tensor.dtype.itemsize());
}

}  // namespace

TEST(lerp_has_the_bits_of_the_cpu) {
  cases::Random random(41);
  for (const auto& weight : weights()) {
    for (const bool is_ragged : {false, true}) {
      Lists lists;
      lists.fill(10, random);
      lists.upload(is_ragged ? ragged : aligned);
      lists.check(Op::kLerp, weight, swa_fast::cuda::kLegacyStream, true);
    }
  }
}

TEST(casts_have_the_bits_of_the_cpu) {
  cases::Random random(42);
  Lists lists;
  lists.fill(20, random);
  lists.upload(ragged);
  lists.check(Op::kCopy, swa_fast::lerp_weight(1), swa_fast::cuda::kLegacyStream, false);
}

// Every float16 through to_float, and every float that rounds to it through to_float16.
TEST(float16_conversions_are_exhaustive) {
  std::vector<uint16_t> patterns(65536);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  const auto boundaries = cases::rounding_boundaries(reference::Traits<swa_fast::Float16>::format);
  Lists lists;
  lists.dst.emplace_back(kFloat32, std::vector<float>(patterns.size()));
  lists.src.emplace_back(kFloat16, patterns);
  lists.dst.emplace_back(kFloat16, std::vector<uint16_t>(boundaries.size()));
  lists.src.emplace_back(kFloat32, std::vector<float>(boundaries.begin(), boundaries.end()));
  lists.dst.emplace_back(kFloat16, std::vector<uint16_t>(boundaries.size()));
  lists.src.emplace_back(kFloat64, boundaries);
  lists.upload(aligned);
  lists.check(Op::kCopy, swa_fast::lerp_weight(1), swa_fast::cuda::kLegacyStream, false);
}

TEST(swap_and_copy_move_bits) {
  cases::Random random(43);
  for (const Op op : {Op::kSwap, Op::kCopy}) {
    Lists lists;
    for (int i = 0; i < 300; ++i) {
      const auto size = static_cast<size_t>(1 + i * 37 % 5000);
      lists.dst.emplace_back(kInt32, std::vector<int32_t>(size, i));
      lists.src.emplace_back(kInt32, std::vector<int32_t>(size, -i));
      lists.dst.emplace_back(kBool, std::vector<uint8_t>(size, 1));
      lists.src.emplace_back(kBool, std::vector<uint8_t>(size, 0));
    }
    lists.upload(ragged);
    lists.check(op, swa_fast::lerp_weight(1), swa_fast::cuda::kLegacyStream, false);
  }
}

TEST(five_thousand_tensors_on_a_stream_of_their_own) {
  cudaStream_t stream = nullptr;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  Lists lists;
  for (int i = 0; i < 5000; ++i) {
    lists.dst.emplace_back(kFloat32, std::vector<float>(static_cast<size_t>(1 + i % 67), 1.0f));
    lists.src.emplace_back(kFloat32, std::vector<float>(static_cast<size_t>(1 + i % 67), 4.0f));
  }
  lists.upload(ragged);
  lists.check(Op::kLerp, swa_fast::mean_weight(2), stream, false);
  require(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

// Three averages of each value in one launch, and a view of the first behind it, from a plan that
// is kept while the values move.
TEST(several_averages_have_the_bits_of_the_cpu) {
  cases::Random random(44);
  for (const bool is_ragged : {false, true}) {
    const auto lead = is_ragged ? ragged : aligned;
    Lists first, second, third, shown, elsewhere;  // the values are the sources of `first`
    first.fill(10, random);
    for (Lists* const lists : {&second, &third, &elsewhere}) {
      lists->dst = first.dst, lists->src = first.src;
    }
    shown.dst = first.src, shown.src = first.dst;
    for (Lists* const lists : {&first, &second, &third, &shown, &elsewhere}) lists->upload(lead);
    const auto on_device = [](Lists& lists) {
      return lists.on_device(lists.dst, lists.dst_device);
    };
    const auto prepare = [](Plan* plan, const std::vector<Buffer>& values,
                            const std::vector<Buffer>& a, const std::vector<Buffer>& b,
                            const std::vector<Buffer>& c, const std::vector<Buffer>& d) {
      using swa_fast::Targets;
      plan->add(Op::kLerp, "values", values,
                {{"first", a},
                 {"second", b, Targets::kAverage, 1},
                 {"third", c, Targets::kAverage, 2},
                 {"shown", d, Targets::kView, 0, 0}});
      plan->prepare();
    };
    Plan device(true), host(true);
    prepare(&device, first.on_device(first.src, first.src_device), on_device(first),
            on_device(second), on_device(third), on_device(shown));
    prepare(&host, buffers_of(first.src), buffers_of(first.dst), buffers_of(second.dst),
            buffers_of(third.dst), buffers_of(shown.dst));
    for (int64_t count = 0; count < 3; ++count) {
      const swa_fast::Action actions[] = {
          swa_fast::snapshot_action(swa_fast::mean_weight(count)),
          swa_fast::snapshot_action(swa_fast::lerp_weight(0.1)),
          count == 1 ? swa_fast::Action{swa_fast::Action::kNothing, {}}
                     : swa_fast::snapshot_action(swa_fast::lerp_weight(0.9))};
      if (count == 2)
        CHECK(device.matches(elsewhere.on_device(elsewhere.src, elsewhere.src_device)));
      device.run(actions);
      host.run(actions);
    }
    for (Lists* const lists : {&first, &second, &third, &shown}) {
      for (size_t i = 0; i < lists->dst.size(); ++i) {
        CHECK_WITH(Lists::same(lists->dst_device[i].download(), lists->dst[i], true),
                   "dst " + std::to_string(i));
      }
    }
  }
}

TEST(sums_have_the_bits_of_the_cpu) {
  cases::Random random(45);
  for (const bool is_ragged : {false, true}) {
    Lists a, b;  // outputs and sources of every pair of types
    a.fill(10, random);
    b.fill(10, random);
    a.upload(is_ragged ? ragged : aligned);
    b.upload(is_ragged ? ragged : aligned);
    const std::vector<double> weights = {0.3, -1.5, 1e-3};
    const auto outputs = a.on_device(a.dst, a.dst_device), x = a.on_device(a.src, a.src_device),
               y = b.on_device(b.src, b.src_device), z = b.on_device(b.dst, b.dst_device);
    swa_fast::Combine("outputs", outputs, {{"x", x}, {"y", y}, {"z", z}}, weights).run();
    const auto host_outputs = buffers_of(a.dst), host_x = buffers_of(a.src),
               host_y = buffers_of(b.src), host_z = buffers_of(b.dst);
    swa_fast::Combine("outputs", host_outputs, {{"x", host_x}, {"y", host_y}, {"z", host_z}},
                      weights)
        .run();
    for (size_t i = 0; i < a.dst.size(); ++i) {
      CHECK_WITH(Lists::same(a.dst_device[i].download(), a.dst[i], true), std::to_string(i));
    }
  }
}

TEST(a_captured_graph_advances_with_its_counter) {
  Lists lists;
  lists.dst.emplace_back(kFloat32, std::vector<float>(1000, std::nanf("")));
  lists.src.emplace_back(kFloat32, std::vector<float>(1000, 6.0f));
  lists.upload(aligned);
  int64_t* counter = nullptr;
  require(cudaMalloc(&counter, 8), "cudaMalloc");
  const auto d = lists.on_device(lists.dst, lists.dst_device);
  const auto s = lists.on_device(lists.src, lists.src_device);
  static const int64_t no_extent = 0;
  const Buffer count = {counter, &no_extent,
                        nullptr, 1,
                        0,       {swa_fast::kCodeInt, 64},
                        false,   {swa_fast::DeviceType::kCuda, 0, 2}};
  const swa_fast::Counter named = {"count", count};
  cudaStream_t stream = nullptr;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  Streams streams;
  streams.set({0, stream, false});
  Plan plan = plan_of(Op::kLerp, {"averages", "values", d, s}, &named);
  const swa_fast::Action action = swa_fast::unconditional_action();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
  plan.run(&action, streams);
  require(cudaStreamEndCapture(stream, &graph), "end capture");
  size_t nodes = 0;
  require(cudaGraphGetNodes(graph, nullptr, &nodes), "nodes");
  CHECK_EQ(nodes, 1u);
  require(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  const float values[] = {6.0f, 2.0f, 1.0f};
  for (int64_t n = 0; n < 3; ++n) {
    const std::vector<float> value(1000, values[n]);
    require(cudaMemcpy(counter, &n, 8, cudaMemcpyHostToDevice), "upload");
    require(cudaMemcpy(lists.src_device[0].data(), value.data(), 4000, cudaMemcpyHostToDevice),
            "upload");
    require(cudaGraphLaunch(exec, stream), "graph launch");
    require(cudaStreamSynchronize(stream), "synchronize");
  }
  const std::vector<unsigned char> bytes = lists.dst_device[0].download();
  std::vector<float> averages(1000);
  std::memcpy(averages.data(), bytes.data(), bytes.size());
  CHECK_EQ(averages[0], 3.0f);
  CHECK_EQ(averages[999], 3.0f);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  cudaFree(counter);
}

// A mean whose snapshots the device leaves out and counts: the CPU's bits of those that are left.
TEST(a_gate_leaves_out_what_is_not_finite_and_counts) {
  for (const bool is_ragged : {false, true}) {
    Lists lists;
    for (const size_t size : {size_t{1}, size_t{7}, size_t{5000}, size_t{70001}}) {
      lists.dst.emplace_back(kFloat32, std::vector<float>(size, 0.5f));
      lists.src.emplace_back(kFloat32, std::vector<float>(size, 0.1f));
    }
    lists.upload(is_ragged ? ragged : aligned);
    int64_t* words = nullptr;
    require(cudaMalloc(&words, 24), "cudaMalloc");
    require(cudaMemset(words, 0, 24), "cudaMemset");
    const Layout layout({3});
    Buffer counts = layout.buffer(words, {swa_fast::kCodeInt, 64});
    counts.device = cuda_device(0);
    Plan device(true), host(true);
    const auto to = lists.on_device(lists.dst, lists.dst_device);
    device.add(Op::kLerp, "values", lists.on_device(lists.src, lists.src_device),
               {{"averages", to}});
    device.prepare();
    const auto host_to = buffers_of(lists.dst);
    host.add(Op::kLerp, "values", buffers_of(lists.src), {{"averages", host_to}});
    host.prepare();
    const auto gate = device.check_gate("gate", counts, 1);
    Streams streams;
    streams.set({0, swa_fast::cuda::kLegacyStream, false});
    int64_t taken = 0;
    for (int64_t update = 0; update < 6; ++update) {
      for (size_t i = 0; i < lists.src.size(); ++i) {
        std::vector<float> values(lists.src[i].memory.size() / 4, 0.1f * (update + 1));
        const size_t last = values.size() - 1;
        const bool is_bad = update % 2 == 0 && i == static_cast<size_t>(update / 2);
        if (!is_bad) std::memcpy(lists.src[i].memory.data(), values.data(), 4 * values.size());
        if (is_bad) values[update == 0 ? 0 : last] = std::nanf("");
        require(cudaMemcpy(lists.src_device[i].data(), values.data(), 4 * values.size(),
                           cudaMemcpyHostToDevice),
                "upload");
      }
      swa_fast::Action action = swa_fast::snapshot_action(swa_fast::mean_weight(update));
      action.is_mean = true;
      device.run_gated(&action, streams, gate);
      if (update % 2 == 0) continue;
      const swa_fast::Action expected = swa_fast::snapshot_action(swa_fast::mean_weight(taken++));
      host.run(&expected);
    }
    int64_t told[3] = {};
    require(cudaMemcpy(told, words, 24, cudaMemcpyDeviceToHost), "download");
    CHECK(told[0] == 0 && told[1] == 3 && told[2] == 3);
    for (size_t i = 0; i < lists.dst.size(); ++i) {
      CHECK_WITH(Lists::same(lists.dst_device[i].download(), lists.dst[i], true),
                 std::to_string(i));
    }
    cudaFree(words);
  }
}

// Copies to pinned memory, in a batch where the driver has that, and one by one.
TEST(side_copies_are_what_the_stream_had_written) {
  std::string reason;
  const swa_fast::cuda::Backend& built = *swa_fast::cuda::backend(&reason);
  swa_fast::cuda::Transfers single = *built.transfers;
  single.copy_batch = nullptr;
  swa_fast::cuda::Backend without_batches = built;
  without_batches.transfers = &single;
  std::printf("batches: %s\n", built.transfers->copy_batch != nullptr ? "yes" : "no");
  cudaStream_t stream = nullptr;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  Streams streams;
  streams.set({0, stream, false});
  constexpr size_t kBytes = 1 << 20;
  for (const bool batches : {true, false}) {
    swa_fast::cuda::set_backend(batches ? &built : &without_batches);
    char *from = nullptr, *to = nullptr;
    require(cudaMalloc(&from, kBytes), "cudaMalloc");
    require(cudaMallocHost(&to, kBytes), "cudaMallocHost");
    {
      swa_fast::cuda::SideCopies copies;
      for (int round = 1; round <= 3; ++round) {
        require(cudaMemsetAsync(from, round, kBytes, stream), "cudaMemsetAsync");
        std::vector<swa_fast::cuda::SideCopies::Copy> parts;
        for (size_t at = 0; at < kBytes; at += 4099) {
          parts.push_back({0, to + at, from + at, std::min<size_t>(4099, kBytes - at)});
        }
        copies.start(parts, streams);
        copies.hold_back(streams);
        require(cudaMemsetAsync(from, 100, kBytes, stream), "cudaMemsetAsync");
        copies.wait();
        CHECK(std::all_of(to, to + kBytes, [&](char byte) { return byte == round; }));
      }
    }
    require(cudaStreamSynchronize(stream), "synchronize");
    cudaFree(from);
    cudaFreeHost(to);
  }
  swa_fast::cuda::set_backend(nullptr);
  cudaStreamDestroy(stream);
}

TEST(the_current_device_stays) {
  int before = -1, after = -2;
  require(cudaGetDevice(&before), "cudaGetDevice");
  Lists lists;
  lists.dst.emplace_back(kFloat32, std::vector<float>(10, 1.0f));
  lists.src.emplace_back(kFloat32, std::vector<float>(10, 3.0f));
  lists.upload(aligned);
  lists.check(Op::kLerp, swa_fast::mean_weight(1), swa_fast::cuda::kLegacyStream, false);
  require(cudaGetDevice(&after), "cudaGetDevice");
  CHECK_EQ(after, before);
}

TEST(a_device_that_is_not_there_is_named) {
  Tensor a(kFloat32, std::vector<float>(4, 1.0f)), b(kFloat32, std::vector<float>(4, 3.0f));
  a.device = b.device = {swa_fast::DeviceType::kCuda, 60, 2};
  const std::vector<Buffer> dst = {a.buffer()}, src = {b.buffer()};
  const swa_fast::Error error =
      CHECK_THROWS(swa_fast::Error,
                   run_call(Op::kLerp, {"averages", "values", dst, src}, swa_fast::mean_weight(1)));
  CHECK_EQ(std::string(error.what()).find("making device cuda:60 current failed: cudaError"), 0u);
}

int main(int argc, char** argv) {
  std::string reason;
  if (swa_fast::cuda::backend(&reason) == nullptr) {
    std::printf("skipped: %s\n", reason.c_str());
    return 77;
  }
  return check::run(argc, argv);
}
