// Errors with the Python exception they become, and the rule of the contract that was broken.
// Thrown before the first write of a call, never from a kernel.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace swa_fast {

enum class ErrorKind { kType, kValue, kBuffer, kRuntime };

// Which rule about which pair of tensors a call breaks, for callers that have other names for them.
struct Refusal {
  const char* rule = "";  // "length", "device", "shape", "dtype", "layout", ...; "" for none
  int64_t index = -1;     // of the pair in its lists, or -1
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, Refusal refusal = {})
      : std::runtime_error(message), kind_(kind), refusal_(refusal) {}
  ErrorKind kind() const { return kind_; }
  const Refusal& refusal() const { return refusal_; }

 private:
  ErrorKind kind_;
  Refusal refusal_;
};

[[noreturn]] inline void throw_type_error(const std::string& message, Refusal refusal = {}) {
  throw Error(ErrorKind::kType, message, refusal);
}
[[noreturn]] inline void throw_value_error(const std::string& message, Refusal refusal = {}) {
  throw Error(ErrorKind::kValue, message, refusal);
}
[[noreturn]] inline void throw_buffer_error(const std::string& message, Refusal refusal = {}) {
  throw Error(ErrorKind::kBuffer, message, refusal);
}
[[noreturn]] inline void throw_runtime_error(const std::string& message, Refusal refusal = {}) {
  throw Error(ErrorKind::kRuntime, message, refusal);
}

// "averages[3]"
inline std::string item_name(const char* list, size_t index) {
  return std::string(list) + "[" + std::to_string(index) + "]";
}

}  // namespace swa_fast
