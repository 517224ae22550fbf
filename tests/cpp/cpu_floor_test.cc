// What a build needs of a CPU, against what the compiler was told and what this CPU has.
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "check.h"
#include "cpu_floor/features.h"

// required.cc once more, compiled for a newer CPU: see CMakeLists.txt.
namespace swa_fast::cpu_floor_newer {
extern const bool kRequired[];
}

namespace {

struct Feature {
  std::string name;
  bool is_offered;
};

std::vector<Feature> features() {
  std::vector<Feature> all;
#define SWA_FAST_FEATURE(name, macro, is_offered) all.push_back({name, is_offered});
  SWA_FAST_FOR_EACH_FEATURE(SWA_FAST_FEATURE)
#undef SWA_FAST_FEATURE
  return all;
}

std::set<std::string> names_of(const bool* required) {
  std::set<std::string> names;
  for (const Feature& feature : features()) {
    if (*required++) names.insert(feature.name);
  }
  return names;
}

}  // namespace

TEST(this_machine_has_what_this_build_needs) {
  const std::set<std::string> needed = names_of(swa_fast::cpu_floor::kRequired);
  for (const Feature& feature : features()) {
    // Or the test itself would be an illegal instruction.
    CHECK_WITH(feature.is_offered || needed.count(feature.name) == 0, feature.name);
  }
}

#if defined(__x86_64__)

TEST(flags_become_features) {
  const std::set<std::string> v3 = {"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt",
                                    "avx",  "avx2",  "fma",    "bmi",    "bmi2"};
  CHECK(names_of(swa_fast::cpu_floor_newer::kRequired) == v3);
}

// The kernel's own list, in its own words for a few of them.
TEST(what_is_offered_agrees_with_the_kernel) {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::set<std::string> flags;
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;) flags.insert(word);
    break;
  }
  CHECK(flags.count("sse2") == 1);
  for (const Feature& feature : features()) {
    std::string kernels = feature.name;
    if (kernels == "sse3") kernels = "pni";
    if (kernels == "sse4.1") kernels = "sse4_1";
    if (kernels == "sse4.2") kernels = "sse4_2";
    if (kernels == "pclmul") kernels = "pclmulqdq";
    if (kernels == "bmi") kernels = "bmi1";
    if (kernels == "avx512vbmi2") kernels = "avx512_vbmi2";
    if (kernels == "avx512vnni") kernels = "avx512_vnni";
    if (kernels == "avx512bitalg") kernels = "avx512_bitalg";
    if (kernels == "avx512vpopcntdq") kernels = "avx512_vpopcntdq";
    CHECK_WITH(feature.is_offered == (flags.count(kernels) == 1), feature.name);
  }
}

#elif defined(__aarch64__) && defined(__linux__)

TEST(flags_become_features) {
  CHECK(names_of(swa_fast::cpu_floor_newer::kRequired).count("atomics") == 1);
}

#endif
