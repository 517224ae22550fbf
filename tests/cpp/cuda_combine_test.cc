// Weighted sums on CUDA devices, on a grid that runs on the CPU: the bits of the CPU's sums, which
// combine_test.cc compares with a reference.
#include <string>

#include "check.h"
#include "core/combine.h"
#include "core/error.h"
#include "cuda_buffers.h"
#include "host_grid.h"
#include "kernel_cases.h"

using swa_fast::Buffer;
using swa_fast::Combine;
using swa_fast::Error;

namespace {

using Buffers = std::vector<Buffer>;

std::vector<swa_fast::SourceList> named(const std::vector<Buffers>& sources) {
  std::vector<swa_fast::SourceList> lists;
  for (size_t k = 0; k < sources.size(); ++k) {
    lists.push_back({"sources[" + std::to_string(k) + "]", sources[k]});
  }
  return lists;
}

void combine(const Buffers& outputs, const std::vector<Buffers>& sources,
             const std::vector<double>& weights, const swa_fast::cuda::Streams& streams = {}) {
  Combine("outputs", outputs, named(sources), weights).run(streams);
}

// Outputs and sources that begin anywhere, whose types are given or take turns.
struct Sum {
  std::vector<Tensor> outputs;
  std::vector<std::vector<Tensor>> sources;  // by term
  std::vector<double> weights;
  std::vector<int64_t> counts;
  bool ragged;

  // `types`: of the sources, in turn.
  Sum(swa_fast::DType output, const std::vector<swa_fast::DType>& types, size_t terms,
      const std::vector<int64_t>& sizes, bool is_ragged, cases::Random& random)
      : sources(terms), counts(sizes), ragged(is_ragged) {
    std::uniform_real_distribution<double> around_zero(-2.0, 2.0);
    for (size_t k = 0; k < terms; ++k) weights.push_back(around_zero(random));
    for (size_t i = 0; i < counts.size(); ++i) {
      outputs.push_back(random_tensor(output, counts[i] + 8, random));
      for (size_t k = 0; k < terms; ++k) {
        sources[k].push_back(random_tensor(types[(k + i) % types.size()], counts[i] + 8, random));
      }
    }
  }

  static Tensor random_tensor(swa_fast::DType dtype, int64_t count, cases::Random& random) {
    Tensor tensor(dtype, Layout({count}));
    for_each_storage([&](auto storage) {
      using T = typename decltype(storage)::Type;
      if (dtype_of<T>() != dtype) return;
      tensor = Tensor(dtype, cases::random_values<T>(static_cast<size_t>(count), random));
    });
    return tensor;
  }

  void run(bool cuda) {
    std::vector<Layout> layouts;
    for (const int64_t count : counts) layouts.push_back(Layout({count}));
    const auto slices = [&](std::vector<Tensor>& tensors, size_t list) {
      Buffers all;
      for (size_t i = 0; i < tensors.size(); ++i) {
        const auto lead = ragged ? static_cast<int64_t>((i + list % 2) % 5) : 0;
        const swa_fast::DType dtype = tensors[i].dtype;
        all.push_back(layouts[i].buffer(tensors[i].memory.data() + lead * dtype.itemsize(), dtype));
      }
      return cuda ? on_cuda(all) : all;
    };
    std::vector<Buffers> lists;
    for (size_t k = 0; k < sources.size(); ++k) lists.push_back(slices(sources[k], k));
    combine(slices(outputs, 0), lists, weights);
  }

  // Whether the outputs hold the same numbers; which NaN arithmetic makes is not promised.
  bool same_outputs(const Sum& other) const {
    bool same = true;
    for (size_t i = 0; i < outputs.size(); ++i) {
      for_each_storage([&](auto storage) {
        using T = typename decltype(storage)::Type;
        if (dtype_of<T>() != outputs[i].dtype) return;
        const std::vector<T> want = other.outputs[i].template elements<T>();
        same = same && first_difference(outputs[i].memory.data(), want.data(),
                                        static_cast<int64_t>(want.size()), true) < 0;
      });
    }
    return same;
  }
};

const std::vector<int64_t> kSizes = {1, 3, 4, 5, 511, 2047, 2048, 2049, 5003};

}  // namespace

TEST(sums_have_the_bits_of_the_cpu) {
  const host_grid::Installed installed;
  cases::Random random(95);
  const std::vector<swa_fast::DType> all = {kFloat32, kBFloat16, kFloat64, kFloat16};
  for (const auto output : all) {
    for (const auto& types : {std::vector<swa_fast::DType>{output}, {kBFloat16}, all}) {
      for (const size_t terms : {size_t{1}, size_t{2}, size_t{10}}) {
        for (const bool ragged : {false, true}) {
          Sum on_host(output, types, terms, kSizes, ragged, random), on_device = on_host;
          on_host.run(false);
          on_device.run(true);
          CHECK(on_device.same_outputs(on_host));
        }
      }
    }
  }
  CHECK(host_grid::record.entered.empty());
}

TEST(outputs_share_launches_by_their_types) {
  const host_grid::Installed installed;
  cases::Random random(96);
  const auto& launches = host_grid::record.launches;
  Sum alike(kFloat32, {kBFloat16}, 3, std::vector<int64_t>(80, 5), false, random);
  alike.run(true);
  CHECK_EQ(launches.size(), 1u);
  CHECK(launches[0].rows == 80 && launches[0].arguments == swa_fast::cuda::kSmallArguments);
  // Sources of two types in turn: (a, b, a), (b, a, b), ...
  host_grid::record.launches.clear();
  Sum mixed(kFloat32, {kBFloat16, kFloat64}, 3, std::vector<int64_t>(80, 5), false, random);
  mixed.run(true);
  CHECK_EQ(launches.size(), 2u);
}

// With many sources a table holds few rows, and then one.
TEST(any_number_of_sources_up_to_what_a_launch_takes) {
  for (const size_t arguments :
       {swa_fast::cuda::kSmallArguments, swa_fast::cuda::kLargeArguments}) {
    const host_grid::Installed installed(arguments);
    const int most = swa_fast::cuda::most_terms(arguments);
    CHECK_EQ(most, arguments == swa_fast::cuda::kSmallArguments ? 169 : 1364);
    cases::Random random(97);
    for (const int terms : {100, most - 1, most}) {
      Sum on_host(kFloat32, {kFloat32}, static_cast<size_t>(terms), {3, 5, 2}, true, random);
      Sum on_device = on_host;
      on_host.run(false);
      on_device.run(true);
      CHECK_WITH(on_device.same_outputs(on_host), std::to_string(terms));
      int rows = 0;
      for (const auto& launch : host_grid::record.launches) rows += launch.rows;
      CHECK_EQ(rows, 3);
      host_grid::record.launches.clear();
    }
    Sum more(kFloat32, {kFloat32}, static_cast<size_t>(most) + 1, {3}, false, random);
    const Sum before = more;
    const Error error = CHECK_THROWS(Error, more.run(true));
    CHECK_EQ(std::string(error.what()),
             "sources has " + std::to_string(most + 1) +
                 " lists, and outputs[0] is on cuda:0, where a sum takes at most " +
                 std::to_string(most));
    CHECK_EQ(std::string(error.refusal().rule), "sources");
    CHECK(host_grid::record.launches.empty());
    CHECK(more.outputs[0].memory == before.outputs[0].memory);
    more.run(false);  // any number on the CPU
  }
}

TEST(an_output_may_be_one_of_its_own_sources) {
  const host_grid::Installed installed;
  for (const size_t size : {size_t{5}, size_t{4099}}) {
    std::vector<Tensor> a = {Tensor(kFloat32, std::vector<float>(size, 4.0f))};
    std::vector<Tensor> b = {Tensor(kFloat64, std::vector<double>(size, 1.0))};
    const Buffers out = on_cuda(buffers_of(a));
    combine(out, {on_cuda(buffers_of(b)), out}, {2.0, 0.5});
    CHECK(a[0].elements<float>() == std::vector<float>(size, 4.0f));
    combine(out, {out, out}, {0.25, 0.5});
    CHECK(a[0].elements<float>() == std::vector<float>(size, 3.0f));
    Buffers shifted = out;
    const Layout shorter({static_cast<int64_t>(size) - 1});
    Buffers low = {shorter.buffer(a[0].memory.data())};
    shifted = {shorter.buffer(a[0].memory.data() + 4)};
    const Error error = CHECK_THROWS(Error, combine(on_cuda(low), {on_cuda(shifted)}, {1.0}));
    CHECK_EQ(std::string(error.refusal().rule), "overlap");
  }
}

TEST(each_device_and_the_cpu_do_their_part) {
  const host_grid::Installed installed;
  std::vector<Tensor> outputs, sources;
  for (int i = 0; i < 6; ++i) {
    outputs.emplace_back(kFloat32, Layout({3}));
    sources.emplace_back(kFloat32, std::vector<float>(3, 1.0f + static_cast<float>(i)));
  }
  Buffers out = buffers_of(outputs), in = buffers_of(sources);
  for (size_t i = 0; i < 4; ++i)
    out[i].device = in[i].device = cuda_device(static_cast<int>(i % 2));
  int mine = 0;
  swa_fast::cuda::Streams streams;
  streams.set({1, &mine, false});
  combine(out, {in}, {2.0}, streams);
  for (int i = 0; i < 6; ++i) {
    CHECK_EQ(outputs[static_cast<size_t>(i)].elements<float>()[2],
             2.0f + 2.0f * static_cast<float>(i));
  }
  const auto& record = host_grid::record;
  CHECK_EQ(record.launches.size(), 2u);
  CHECK(record.launches[1].device == 1 && record.launches[1].stream == &mine);
  CHECK(record.waits == std::vector<void*>({swa_fast::cuda::kLegacyStream}));
  // A source elsewhere than its output.
  in[1].device = cuda_device(0);
  const Error error = CHECK_THROWS(Error, combine(out, {in}, {2.0}));
  CHECK_EQ(std::string(error.what()),
           "outputs[1] is on cuda:1, sources[0][1] is on cuda:0: the two must be on one device");
}

TEST(empty_tensors_and_failures) {
  const host_grid::Installed installed;
  std::vector<Tensor> empty = {Tensor(kFloat32, Layout({0}))};
  combine(on_cuda(buffers_of(empty)), {on_cuda(buffers_of(empty))}, {1.0});
  combine({}, {{}}, {1.0});
  CHECK(host_grid::record.launches.empty());
  CHECK_EQ(host_grid::record.max_entered, 0);
  host_grid::record.fail_launch = 0;
  std::vector<Tensor> a = {Tensor(kFloat32, Layout({3}))}, b = a;
  const Error error =
      CHECK_THROWS(Error, combine(on_cuda(buffers_of(a)), {on_cuda(buffers_of(b))}, {1.0}));
  CHECK_EQ(std::string(error.what()),
           "launching the combine kernel for 1 tensors on cuda:0 failed: cudaErrorOfTests (700)");
}

// A tensor of more elements than a row takes: no memory is touched.
TEST(huge_sums_are_cut) {
  const host_grid::Installed installed;
  host_grid::record.only_note = true;
  const int64_t size = (int64_t{1} << 33) + 5;
  const Layout layout({size});
  const auto at = [&](uintptr_t place) {
    return on_cuda({layout.buffer(reinterpret_cast<void*>(place << 44))});
  };
  combine(at(1), {at(2), at(3)}, {0.5, 0.5});
  int64_t blocks = 0, rows = 0;
  for (const auto& launch : host_grid::record.launches)
    blocks += launch.blocks, rows += launch.rows;
  CHECK_EQ(blocks, (size + 2047) / 2048);
  CHECK_EQ(rows, 129);
}
