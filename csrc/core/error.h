// Errors with the Python exception they become. Thrown before the first write of a call, never
// from a kernel.
#pragma once

#include <stdexcept>
#include <string>

namespace swa_fast {

enum class ErrorKind { kType, kValue, kBuffer, kRuntime };

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

[[noreturn]] inline void throw_type_error(const std::string& message) {
  throw Error(ErrorKind::kType, message);
}
[[noreturn]] inline void throw_value_error(const std::string& message) {
  throw Error(ErrorKind::kValue, message);
}
[[noreturn]] inline void throw_buffer_error(const std::string& message) {
  throw Error(ErrorKind::kBuffer, message);
}
[[noreturn]] inline void throw_runtime_error(const std::string& message) {
  throw Error(ErrorKind::kRuntime, message);
}

// "averages[3]"
inline std::string item_name(const char* list, size_t index) {
  return std::string(list) + "[" + std::to_string(index) + "]";
}

}  // namespace swa_fast
