// What a build needs of a CPU, against what the compiler was told and what this CPU has.
#include "cpu_floor/features.h"

#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "check.h"

using namespace swa_fast::cpu_floor;

// required.cc once more, compiled for a newer CPU: see CMakeLists.txt.
namespace swa_fast::cpu_floor_newer {
extern const cpu_floor::Features kRequired;
}

namespace {

std::set<std::string> names_of(Features features) {
  std::set<std::string> names;
  for (int i = 0; feature_name(i) != nullptr; ++i) {
    if ((features >> i & 1) != 0) names.insert(feature_name(i));
  }
  return names;
}

}  // namespace

TEST(this_machine_has_what_this_build_needs) {
  // Or the test itself would be an illegal instruction.
  CHECK((kRequired & ~detected()) == 0);
}

#if defined(__x86_64__)

TEST(flags_become_features) {
  const std::set<std::string> names = names_of(swa_fast::cpu_floor_newer::kRequired);
  const std::set<std::string> v3 = {"sse3",   "ssse3", "fma",  "cx16", "sse4.1", "sse4.2", "movbe",
                                    "popcnt", "avx",   "f16c", "bmi",  "avx2",   "bmi2",   "lzcnt"};
  CHECK(names == v3);
}

// The kernel's own list, in its own words for a few of them.
TEST(detected_agrees_with_the_kernel) {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::set<std::string> flags;
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;) flags.insert(word);
    break;
  }
  CHECK(flags.count("sse2") == 1);
  const std::set<std::string> names = names_of(detected());
  for (int i = 0; feature_name(i) != nullptr; ++i) {
    std::string kernels = feature_name(i);
    if (kernels == "sse3") kernels = "pni";
    if (kernels == "sse4.1") kernels = "sse4_1";
    if (kernels == "sse4.2") kernels = "sse4_2";
    if (kernels == "pclmul") kernels = "pclmulqdq";
    if (kernels == "bmi") kernels = "bmi1";
    if (kernels == "lzcnt") kernels = "abm";
    if (kernels == "avx512vbmi2") kernels = "avx512_vbmi2";
    if (kernels == "avx512vnni") kernels = "avx512_vnni";
    if (kernels == "avx512bitalg") kernels = "avx512_bitalg";
    if (kernels == "avx512vpopcntdq") kernels = "avx512_vpopcntdq";
    if (kernels == "avx512fp16") kernels = "avx512_fp16";
    if (kernels == "avxvnni") kernels = "avx_vnni";
    if (kernels == "avx512bf16") kernels = "avx512_bf16";
    CHECK_EQ(names.count(feature_name(i)), flags.count(kernels));
  }
}

#elif defined(__aarch64__) && defined(__linux__)

TEST(flags_become_features) {
  CHECK(names_of(swa_fast::cpu_floor_newer::kRequired).count("atomics") == 1);
}

#endif
