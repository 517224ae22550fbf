// Weighted sums of several lists of tensors, against sums in double.
#include "core/combine.h"

#include <cmath>
#include <string>

#include "buffers.h"
#include "check.h"
#include "core/error.h"
#include "cpu/threads.h"
#include "kernel_cases.h"

using swa_fast::Buffer;
using swa_fast::Combine;
using swa_fast::Error;
using swa_fast::ErrorKind;
using swa_fast::SourceList;

namespace {

using Buffers = std::vector<Buffer>;

template <class T>
constexpr swa_fast::DType dtype_of() {
  if constexpr (std::is_same_v<T, swa_fast::BFloat16>) return kBFloat16;
  return {swa_fast::kCodeFloat, 8 * sizeof(T)};
}

std::string list_name(size_t k) { return "sources[" + std::to_string(k) + "]"; }

// outputs = sum of weights[k] * sources[k].
void combine(const Buffers& outputs, const std::vector<Buffers>& sources,
             const std::vector<double>& weights) {
  std::vector<SourceList> lists;
  for (size_t k = 0; k < sources.size(); ++k) lists.push_back({list_name(k), sources[k]});
  Combine("outputs", outputs, lists, weights).run();
}

// The numbers of a tensor as doubles; of a NaN, one of them.
std::vector<double> numbers(const Tensor& tensor) {
  std::vector<double> all;
  for_each_storage([&](auto storage) {
    using T = typename decltype(storage)::Type;
    if (dtype_of<T>() != tensor.dtype) return;
    for (const T value : tensor.elements<T>()) {
      all.push_back(reference::is_nan(value) ? std::nan("") : reference::value_of(value));
    }
  });
  return all;
}

// The sum in the order of the sources, each operation rounded to double, beginning with the first
// product.
std::vector<double> sums(const std::vector<Tensor>& sources, const std::vector<double>& weights) {
  std::vector<double> all;
  for (size_t k = 0; k < sources.size(); ++k) {
    const std::vector<double> terms = numbers(sources[k]);
    all.resize(terms.size());
    for (size_t i = 0; i < terms.size(); ++i) {
      volatile double product = terms[i] * weights[k];
      volatile double sum = all[i] + product;
      all[i] = k == 0 ? product : sum;
    }
  }
  return all;
}

template <class T>
void check_rounded(const Tensor& output, const std::vector<double>& expected,
                   const std::string& context) {
  const std::vector<T> got = output.elements<T>();
  CHECK_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const bool nan = std::isnan(expected[i]);
    const bool same =
        nan ? reference::is_nan(got[i])
            : reference::bits_of(got[i]) == reference::bits_of(reference::round_to<T>(expected[i]));
    CHECK_WITH(same, context + ", element " + std::to_string(i));
  }
}

template <class T>
Tensor random_tensor(size_t count, cases::Random& random) {
  return Tensor(dtype_of<T>(), cases::random_values<T>(count, random));
}

// The `k`-th source of a sum: the types take turns, each for `run` sources.
Tensor random_source(size_t k, size_t count, cases::Random& random, size_t run = 1) {
  switch (k / run % 4) {
    case 0:
      return random_tensor<swa_fast::BFloat16>(count, random);
    case 1:
      return random_tensor<float>(count, random);
    case 2:
      return random_tensor<swa_fast::Float16>(count, random);
    default:
      return random_tensor<double>(count, random);
  }
}

std::vector<double> random_weights(size_t number, cases::Random& random) {
  std::uniform_real_distribution<double> around_zero(-2.0, 2.0);
  std::vector<double> weights;
  for (size_t k = 0; k < number; ++k) {
    weights.push_back(k % 5 == 3 ? 1.0 / static_cast<double>(number) : around_zero(random));
  }
  return weights;
}

}  // namespace

TEST(sums_are_made_in_double_and_rounded_once) {
  cases::Random random(81);
  for (const size_t number : {size_t{1}, size_t{2}, size_t{3}, size_t{10}}) {
    for (size_t first = 0; first < 4; ++first) {
      const size_t run = 1 + 2 * first;  // past the four that are added in one pass
      for (const size_t count : {size_t{1}, size_t{63}, size_t{2047}, size_t{2048}, size_t{4099}}) {
        std::vector<Tensor> sources;
        for (size_t k = 0; k < number; ++k) {
          sources.push_back(random_source(first * run + k, count, random, run));
        }
        const std::vector<double> weights = random_weights(number, random);
        const std::vector<double> expected = sums(sources, weights);
        std::vector<Buffers> lists;
        for (Tensor& source : sources) lists.push_back({source.buffer()});
        for_each_storage([&](auto storage) {
          using T = typename decltype(storage)::Type;
          Tensor output = random_tensor<T>(count, random);  // what stands there is not read
          combine({output.buffer()}, lists, weights);
          check_rounded<T>(output, expected,
                           std::string(storage.name) + " of " + std::to_string(number));
        });
      }
    }
  }
}

TEST(several_tensors_on_any_number_of_threads) {
  cases::Random random(82);
  const std::vector<size_t> counts = {5, 1, 100000, 0, 777, 64, 250001};
  std::vector<std::vector<Tensor>> sources(3);  // by position in the sum
  for (const size_t count : counts) {
    for (size_t k = 0; k < 3; ++k) sources[k].push_back(random_source(k, count, random));
  }
  const std::vector<double> weights = {0.25, -1.5, 1e-3};
  std::vector<Buffers> lists;
  for (auto& list : sources) lists.push_back(buffers_of(list));
  for (const int threads : {1, 2, 3, 7}) {
    swa_fast::cpu::set_num_threads(threads);
    std::vector<Tensor> outputs;
    for (size_t i = 0; i < counts.size(); ++i) {
      outputs.push_back(i % 2 == 0 ? random_tensor<float>(counts[i], random)
                                   : random_tensor<swa_fast::Float16>(counts[i], random));
    }
    combine(buffers_of(outputs), lists, weights);
    for (size_t i = 0; i < counts.size(); ++i) {
      const auto expected = sums({sources[0][i], sources[1][i], sources[2][i]}, weights);
      const std::string context = std::to_string(i) + " on " + std::to_string(threads);
      if (i % 2 == 0) {
        check_rounded<float>(outputs[i], expected, context);
      } else {
        check_rounded<swa_fast::Float16>(outputs[i], expected, context);
      }
    }
  }
  swa_fast::cpu::set_num_threads(0);
}

// Shares of a launch, whatever is thought worth a thread.
TEST(shares_do_not_change_a_bit) {
  cases::Random random(83);
  std::vector<double> results;
  for (const int threads : {1, 2, 3, 5, 8}) {
    cases::Random same(84);
    std::vector<Tensor> outputs, sources;
    for (const size_t count : {size_t{1}, size_t{129}, size_t{5000}, size_t{64}, size_t{9999}}) {
      outputs.push_back(random_tensor<float>(count, random));
      sources.push_back(random_tensor<double>(count, same));
      sources.push_back(random_tensor<swa_fast::BFloat16>(count, same));
    }
    swa_fast::cpu::CombineLaunch launch({0.7, 0.1});
    for (size_t i = 0; i < outputs.size(); ++i) {
      launch.add(
          outputs[i].memory.data(), swa_fast::StorageType::kFloat32, outputs[i].layout.shape[0],
          {{reinterpret_cast<char*>(sources[2 * i].memory.data()), swa_fast::StorageType::kFloat64},
           {reinterpret_cast<char*>(sources[2 * i + 1].memory.data()),
            swa_fast::StorageType::kBFloat16}});
    }
    CHECK_EQ(launch.bytes(), (1 + 129 + 5000 + 64 + 9999) * 14);
    launch.run(threads);
    for (size_t i = 0; i < outputs.size(); ++i) {
      const auto expected = sums({sources[2 * i], sources[2 * i + 1]}, {0.7, 0.1});
      check_rounded<float>(outputs[i], expected, std::to_string(threads) + " threads");
    }
  }
}

TEST(the_order_of_the_sources_counts) {
  const auto sum_of = [](const std::vector<double>& values) {
    std::vector<Tensor> sources;
    std::vector<Buffers> lists;
    sources.reserve(values.size());
    for (const double value : values) {
      sources.emplace_back(kFloat64, std::vector<double>{value});
      lists.push_back({sources.back().buffer()});
    }
    Tensor output(kFloat64, Layout({1}));
    combine({output.buffer()}, lists, std::vector<double>(values.size(), 1.0));
    return output.elements<double>()[0];
  };
  CHECK_EQ(sum_of({1e16, 1.0, -1e16}), 0.0);
  CHECK_EQ(sum_of({1e16, -1e16, 1.0}), 1.0);
  CHECK_EQ(sum_of({0x1p53, 1.0, 1.0}), 0x1p53);
  CHECK_EQ(sum_of({1.0, 1.0, 0x1p53}), 0x1p53 + 2);
}

// The sum begins with the first product, not with a zero that it is added to.
TEST(a_negative_zero_stays_one) {
  const auto sign_of = [](float a, double weight, const float* b) {
    std::vector<Tensor> sources = {Tensor(kFloat32, std::vector<float>{a}),
                                   Tensor(kFloat32, std::vector<float>{b == nullptr ? 0 : *b})};
    Tensor output(kFloat32, std::vector<float>{7});
    std::vector<Buffers> lists = {{sources[0].buffer()}};
    std::vector<double> weights = {weight};
    if (b != nullptr) {
      lists.push_back({sources[1].buffer()});
      weights.push_back(1.0);
    }
    combine({output.buffer()}, lists, weights);
    CHECK_EQ(output.elements<float>()[0], 0.0f);
    return std::signbit(output.elements<float>()[0]);
  };
  const float zero = 0.0f, negative = -0.0f;
  CHECK(sign_of(-0.0f, 1.0, nullptr));
  CHECK(!sign_of(-0.0f, -1.0, nullptr));
  CHECK(sign_of(3.0f, -0.0, nullptr));
  CHECK(sign_of(-0.0f, 1.0, &negative));
  CHECK(!sign_of(-0.0f, 1.0, &zero));
}

TEST(complex_numbers_are_summed_by_parts) {
  Tensor a(kComplex64, std::vector<float>{1, 2, 3, 4}),
      b(kComplex128, std::vector<double>{5, 6, 7, 8});
  Tensor output(kComplex64, Layout({2}));
  combine({output.buffer()}, {{a.buffer()}, {b.buffer()}}, {0.5, 2.0});
  CHECK(output.elements<float>() == std::vector<float>({10.5, 13, 15.5, 18}));
}

TEST(empty_and_zero_dimensional_tensors_and_dense_layouts) {
  const Layout columns({2, 3}, {1, 2});
  std::vector<Tensor> outputs = {Tensor(kFloat32, Layout({0, 2})), Tensor(kFloat32, Layout({})),
                                 Tensor(kFloat32, columns)};
  std::vector<Tensor> source = outputs, none;
  const float values[] = {1, 2, 3, 4, 5, 6};
  std::memcpy(source[1].memory.data(), values, 4);
  std::memcpy(source[2].memory.data(), values, 24);
  combine(buffers_of(outputs), {buffers_of(source)}, {3.0});
  CHECK_EQ(outputs[1].elements<float>()[0], 3.0f);
  CHECK(outputs[2].elements<float>() == std::vector<float>({3, 6, 9, 12, 15, 18}));
  combine({}, {{}}, {1.0});
}

TEST(an_output_may_be_one_of_its_own_sources) {
  cases::Random random(85);
  for (const size_t own : {size_t{0}, size_t{1}, size_t{2}}) {
    std::vector<Tensor> sources;
    for (int k = 0; k < 3; ++k) sources.push_back(random_tensor<float>(5001, random));
    const std::vector<double> weights = {0.5, 0.25, -3};
    const std::vector<double> expected = sums(sources, weights);
    std::vector<Buffers> lists;
    for (Tensor& source : sources) lists.push_back({source.buffer()});
    combine({sources[own].buffer()}, lists, weights);
    check_rounded<float>(sources[own], expected, "source " + std::to_string(own));
  }
  // Twice, too; and read as another type of the same size.
  Tensor twice = random_tensor<float>(100, random);
  const auto doubled = sums({twice, twice}, {1.0, 1.0});
  combine({twice.buffer()}, {{twice.buffer()}, {twice.buffer()}}, {1.0, 1.0});
  check_rounded<float>(twice, doubled, "twice");
  Tensor bits = random_tensor<swa_fast::BFloat16>(3000, random);
  const auto halves = sums({bits}, {0.5});
  Buffer seen = bits.buffer();
  seen.dtype = kFloat16;
  combine({seen}, {{bits.buffer()}}, {0.5});
  bits.dtype = kFloat16;
  check_rounded<swa_fast::Float16>(bits, halves, "another type");
}

namespace {

// Two lists of two sources that make two outputs; a test spoils some.
struct Sum {
  std::vector<Tensor> outputs, first, second;

  Sum() {
    for (int i = 0; i < 2; ++i) {
      outputs.emplace_back(kFloat32, std::vector<float>(6, 7.0f));
      first.emplace_back(kFloat32, std::vector<float>(6, 1.0f));
      second.emplace_back(kFloat64, std::vector<double>(6, 2.0));
    }
  }
};

// Checks that the sum is refused, and that nothing was written.
template <class Spoil>
void check_refused(const Spoil& spoil, ErrorKind kind, const char* rule, int64_t index,
                   const std::string& message) {
  Sum sum;
  Buffers outputs = buffers_of(sum.outputs), first = buffers_of(sum.first),
          second = buffers_of(sum.second);
  spoil(outputs, first, second);
  const Error error = CHECK_THROWS(Error, combine(outputs, {first, second}, {0.5, 0.5}));
  CHECK_EQ(std::string(error.what()), message);
  CHECK(error.kind() == kind);
  CHECK_EQ(std::string(error.refusal().rule), rule);
  CHECK_EQ(error.refusal().index, index);
  for (const Tensor& tensor : sum.outputs) {
    CHECK(tensor.elements<float>() == std::vector<float>(6, 7.0f));
  }
}

}  // namespace

TEST(what_breaks_a_rule_is_refused_by_name) {
  using B = Buffers;
  const Layout other({3, 2}), strided({3, 2}, {4, 2});
  const swa_fast::Device strange = {swa_fast::DeviceType::kOther, 0, 8};
  check_refused([](B&, B&, B& s) { s.pop_back(); }, ErrorKind::kValue, "length", -1,
                "outputs has 2 tensors, sources[1] has 1: the lists must be equally long");
  check_refused([&](B&, B&, B& s) { s[1].shape = other.shape.data(), s[1].ndim = 2; },
                ErrorKind::kValue, "shape", 1,
                "outputs[1] has shape (6,), sources[1][1] has shape (3, 2): the two must be equal");
  check_refused([](B& o, B&, B&) { o[0].read_only = true; }, ErrorKind::kBuffer, "read-only", 0,
                "outputs[0] is read-only and would be written");
  check_refused([](B& o, B&, B&) { o[1].dtype = kInt32; }, ErrorKind::kType, "dtype", 1,
                "outputs[1] has dtype int32: only floating-point tensors can be averaged (copy_ "
                "takes any type)");
  check_refused([](B&, B& f, B&) { f[0].dtype = kInt32; }, ErrorKind::kType, "dtype", 0,
                "sources[0][0] has dtype int32: only floating-point tensors can be averaged (copy_ "
                "takes any type)");
  check_refused([](B&, B&, B& s) { s[0].dtype = kComplex64; }, ErrorKind::kType, "dtype", 0,
                "outputs[0] has dtype float32, sources[1][0] has dtype complex64: complex tensors "
                "pair with complex tensors only");
  check_refused(
      [&](B& o, B& f, B& s) {
        for (B* const list : {&o, &f, &s})
          (*list)[1].shape = other.shape.data(), (*list)[1].ndim = 2;
        s[1].strides = strided.strides.data();
      },
      ErrorKind::kBuffer, "layout", 1,
      "sources[1][1] is not contiguous: shape (3, 2), strides (4, 2) in elements. Tensors must "
      "fill a solid block of memory; make a contiguous copy first");
  check_refused([](B&, B&, B& s) { s[1].data = static_cast<char*>(s[1].data) + 4; },
                ErrorKind::kBuffer, "alignment", 1,
                "sources[1][1] is not aligned to its element size; make a copy first");
  check_refused([](B&, B& f, B&) { f[1].data = nullptr; }, ErrorKind::kBuffer, "memory", 1,
                "sources[0][1] has no memory: its storage was freed");
  check_refused([&](B& o, B&, B&) { o[0].device = strange; }, ErrorKind::kValue, "device", 0,
                "outputs[0] is on DLPack device type 8, index 0, sources[0][0] is on cpu: the two "
                "must be on one device");
}

TEST(overlap_is_refused) {
  using B = Buffers;
  const std::string rule =
      " overlap in memory: every tensor that is written must be disjoint from the others of the "
      "call";
  check_refused([](B& o, B&, B&) { o[1].data = o[0].data; }, ErrorKind::kValue, "overlap", -1,
                "outputs[0] and outputs[1]" + rule);
  check_refused([](B& o, B& f, B&) { f[1].data = o[0].data; }, ErrorKind::kValue, "overlap", -1,
                "outputs[0] and sources[0][1]" + rule);
  // Its own source, half a tensor further on, or of other size.
  Tensor both(kFloat32, Layout({12}));
  check_refused(
      [&](B& o, B& f, B&) {
        o[1].data = both.memory.data();
        f[1].data = both.memory.data() + 12;
      },
      ErrorKind::kValue, "overlap", -1, "outputs[1] and sources[0][1]" + rule);
  check_refused([](B& o, B&, B& s) { o[0].data = s[0].data; }, ErrorKind::kValue, "overlap", -1,
                "outputs[0] and sources[1][0]" + rule);
  CHECK(both.memory == std::vector<unsigned char>(48));
}
