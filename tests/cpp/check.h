// A small test harness: TEST(name) { CHECK(...); } and a main(). No dependency.
//
// A test passes if it made at least one check and none failed. `NAME_test [part-of-a-name]` runs
// the tests whose name contains the part. The exit status is 0 only if a test ran and all passed.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace check {

// Messages of one test beyond this number are counted, not printed.
constexpr long kMaxMessages = 5;

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline long checks = 0;    // of the running test
inline long failures = 0;  // of the running test

struct Registration {
  Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  if (++failures <= kMaxMessages) std::cerr << file << ":" << line << ": " << what << "\n";
}

inline bool is_true(bool condition, const char* text, const char* file, int line,
                    const std::string& context = "") {
  ++checks;
  if (!condition) fail(file, line, std::string(text) + (context.empty() ? "" : ": ") + context);
  return condition;
}

template <class Got, class Expected>
bool is_equal(const Got& got, const Expected& expected, const char* text, const char* file,
              int line) {
  ++checks;
  if (got == expected) return true;
  std::ostringstream what;
  what << text << "\n    got      " << got << "\n    expected " << expected;
  fail(file, line, what.str());
  return false;
}

// Checks that `body` throws an `Exception`, and returns it for a look at its contents.
template <class Exception>
Exception thrown_by(const std::function<void()>& body, const char* text, const char* file,
                    int line) {
  ++checks;
  try {
    body();
  } catch (const Exception& error) {
    return error;
  }
  fail(file, line, std::string(text) + " threw nothing");
  throw std::runtime_error("cannot go on without the exception");
}

inline int run(int argc, char** argv) {
  const std::string part = argc > 1 ? argv[1] : "";
  int ran = 0, failed = 0;
  for (const Test& test : tests()) {
    if (std::string(test.name).find(part) == std::string::npos) continue;
    checks = failures = 0;
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("unexpected exception: ") + error.what());
    }
    if (checks == 0) fail(test.name, 0, "checked nothing");
    std::printf("%s %s: %ld checks, %ld failed\n", failures == 0 ? "ok    " : "FAILED", test.name,
                checks, failures);
    ++ran;
    failed += failures != 0 ? 1 : 0;
  }
  std::printf("%d of %d tests passed\n", ran - failed, ran);
  return ran > 0 && failed == 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                   \
  static void name();                                                \
  static const check::Registration name##_registration(#name, name); \
  static void name()
#define CHECK(condition) check::is_true((condition), #condition, __FILE__, __LINE__)
// The context is put together only on failure.
#define CHECK_WITH(condition, context)           \
  ((condition) ? check::is_true(true, "", "", 0) \
               : check::is_true(false, #condition, __FILE__, __LINE__, (context)))
#define CHECK_EQ(got, expected) \
  check::is_equal((got), (expected), #got " == " #expected, __FILE__, __LINE__)
#define CHECK_THROWS(Exception, expression)                                                  \
  check::thrown_by<Exception>([&] { static_cast<void>(expression); }, #expression, __FILE__, \
                              __LINE__)
