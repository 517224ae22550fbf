// dtype.h and element_op.h: names, the meaning of DLPack's numbers, compute types.
#include "core/dtype.h"

#include <type_traits>

#include "check.h"
#include "core/op.h"
#include "storage_pairs.h"

using namespace swa_fast;

namespace {

void check_floating(DType dtype, const char* name, StorageType storage, int per_element) {
  const FloatingView view = floating_view(dtype);
  CHECK(view.floating);
  CHECK(view.storage == storage);
  CHECK_EQ(view.per_element, per_element);
  CHECK_EQ(dtype_name(dtype), name);
}

}  // namespace

TEST(floating_types_are_seen_as_their_storage) {
  check_floating({kCodeFloat, 64}, "float64", StorageType::kFloat64, 1);
  check_floating({kCodeFloat, 32}, "float32", StorageType::kFloat32, 1);
  check_floating({kCodeFloat, 16}, "float16", StorageType::kFloat16, 1);
  check_floating({kCodeBFloat, 16}, "bfloat16", StorageType::kBFloat16, 1);
}

TEST(complex_types_are_pairs_of_floats) {
  check_floating({kCodeComplex, 128}, "complex128", StorageType::kFloat64, 2);
  check_floating({kCodeComplex, 64}, "complex64", StorageType::kFloat32, 2);
  check_floating({kCodeComplex, 32}, "complex32", StorageType::kFloat16, 2);
}

TEST(everything_else_is_not_floating) {
  const struct {
    DType dtype;
    const char* name;
  } others[] = {{{kCodeInt, 8}, "int8"},
                {{kCodeInt, 64}, "int64"},
                {{kCodeUInt, 16}, "uint16"},
                {{kCodeBool, 8}, "bool"},
                {{kCodeFloat, 8}, "float8"},
                {{kCodeFloat, 128}, "float128"},
                {{kCodeBFloat, 32}, "bfloat32"},
                {{kCodeComplex, 16}, "complex16"},
                {{10, 8}, "DLPack type code 10 with 8 bits"}};
  for (const auto& other : others) {
    CHECK(!floating_view(other.dtype).floating);
    CHECK_EQ(dtype_name(other.dtype), other.name);
  }
}

TEST(the_list_of_types_is_in_the_order_of_the_enumerators) {
  int seen = 0;
  for_each_storage([&](auto storage) {
    using T = typename decltype(storage)::Type;
    CHECK_EQ(storage.index, seen++);
    const DType dtype{std::is_same_v<T, BFloat16> ? kCodeBFloat : kCodeFloat, 8 * sizeof(T)};
    CHECK_EQ(static_cast<int>(floating_view(dtype).storage), storage.index);
    CHECK_EQ(dtype_name(dtype), storage.name);
    CHECK_EQ(dtype.itemsize(), static_cast<int64_t>(sizeof(T)));
  });
  CHECK_EQ(seen, kNumStorageTypes);
}

TEST(a_pair_is_computed_in_double_if_a_side_is_double) {
  for_each_pair([](auto a, auto b) {
    using A = typename decltype(a)::Type;
    using B = typename decltype(b)::Type;
    constexpr bool in_double = std::is_same_v<A, double> || std::is_same_v<B, double>;
    using Expected = std::conditional_t<in_double, double, float>;
    CHECK((std::is_same_v<ComputeType<A, B>, Expected>));
  });
  const Weight weight{0.25f, 0.5};
  CHECK_EQ(weight.as<float>(), 0.25f);
  CHECK_EQ(weight.as<double>(), 0.5);
}
