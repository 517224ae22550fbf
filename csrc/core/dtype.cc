#include "core/dtype.h"

namespace swa_fast {

FloatingView floating_view(DType dtype) {
  // A complex number is two floats of half its width.
  const bool is_complex = dtype.code == kCodeComplex;
  const DType part = is_complex ? DType{kCodeFloat, static_cast<uint8_t>(dtype.bits / 2)} : dtype;
  const int per_element = is_complex ? 2 : 1;
#define SWA_FAST_MATCH(enumerator, type, name, code, bits) \
  if (part == DType{code, bits}) return {true, StorageType::k##enumerator, per_element};
  SWA_FAST_FOR_EACH_STORAGE_TYPE(SWA_FAST_MATCH)
#undef SWA_FAST_MATCH
  return {false, StorageType::kFloat64, 1};
}

std::string dtype_name(DType dtype) {
  const std::string bits = std::to_string(dtype.bits);
  switch (dtype.code) {
    case kCodeInt:
      return "int" + bits;
    case kCodeUInt:
      return "uint" + bits;
    case kCodeFloat:
      return "float" + bits;
    case kCodeBFloat:
      return "bfloat" + bits;
    case kCodeComplex:
      return "complex" + bits;
    case kCodeBool:
      return "bool";
    default:
      return "DLPack type code " + std::to_string(dtype.code) + " with " + bits + " bits";
  }
}

}  // namespace swa_fast
