// Element types: how they are named, and the one list of floating types that can be averaged.
#pragma once

#include <cstdint>
#include <string>

#include "core/float16.h"

namespace swa_fast {

// The ONE list of storage types. Kernels, tables, names and tests are all generated from it.
// X(enumerator, C++ type, name as NumPy spells it, DLPack code, bits)
#define SWA_FAST_FOR_EACH_STORAGE_TYPE(X) \
  X(Float64, double, "float64", 2, 64)    \
  X(Float32, float, "float32", 2, 32)     \
  X(Float16, Float16, "float16", 2, 16)   \
  X(BFloat16, BFloat16, "bfloat16", 4, 16)

enum class StorageType : int {
#define SWA_FAST_ENUMERATOR(enumerator, type, name, code, bits) k##enumerator,
  SWA_FAST_FOR_EACH_STORAGE_TYPE(SWA_FAST_ENUMERATOR)
#undef SWA_FAST_ENUMERATOR
};

#define SWA_FAST_COUNT(...) +1
inline constexpr int kNumStorageTypes = 0 SWA_FAST_FOR_EACH_STORAGE_TYPE(SWA_FAST_COUNT);
#undef SWA_FAST_COUNT

inline constexpr int kStorageSizes[] = {
#define SWA_FAST_SIZE(enumerator, type, name, code, bits) sizeof(type),
    SWA_FAST_FOR_EACH_STORAGE_TYPE(SWA_FAST_SIZE)
#undef SWA_FAST_SIZE
};

// Bytes of one number.
inline constexpr int size_of(StorageType storage) {
  return kStorageSizes[static_cast<int>(storage)];
}

// The storage types in the order of the enumerators, to instantiate templates over.
template <class... Types>
struct TypeList {};
template <class First, class... Rest>
TypeList<Rest...> drop_first(TypeList<First, Rest...>);
#define SWA_FAST_TYPE(enumerator, type, name, code, bits) , type
using StorageTypes =
    decltype(drop_first(TypeList<void SWA_FAST_FOR_EACH_STORAGE_TYPE(SWA_FAST_TYPE)>{}));
#undef SWA_FAST_TYPE

// A DLPack element type with one lane: its type code and its width in bits.
struct DType {
  uint8_t code;
  uint8_t bits;

  bool operator==(const DType& other) const { return code == other.code && bits == other.bits; }
  bool operator!=(const DType& other) const { return !(*this == other); }
  int64_t itemsize() const { return bits / 8; }
};

// The DLPack type codes this project gives a meaning to (numbers fixed by DLPack).
enum DTypeCode : uint8_t {
  kCodeInt = 0,
  kCodeUInt = 1,
  kCodeFloat = 2,
  kCodeOpaque = 3,
  kCodeBFloat = 4,
  kCodeComplex = 5,
  kCodeBool = 6,
};

// What a kernel sees of a DType: a storage type and how many of it make one element
// (2 for complex numbers, which are pairs of floats). `floating` is false for everything else.
struct FloatingView {
  bool floating;
  StorageType storage;
  int per_element;
};

FloatingView floating_view(DType dtype);

// "float32", "complex64", "int8", ..., or the DLPack numbers for a type without a name here.
std::string dtype_name(DType dtype);

}  // namespace swa_fast
