// Compiled with the flags of everything else, and holds no code: only what they amount to.
#include "cpu_floor/features.h"

namespace swa_fast::cpu_floor {
namespace {

// A macro that is not defined expands to its own name; one that is, to a number or to nothing.
[[maybe_unused]] constexpr bool is_name(const char* expansion) { return *expansion == '_'; }
#define SWA_FAST_EXPANSION_(macro) #macro
#define SWA_FAST_EXPANSION(macro) SWA_FAST_EXPANSION_(macro)

constexpr Features required() {
  Features all = 0;
  int bit = 0;
#define SWA_FAST_REQUIRE(name, macro, ...) \
  all |= static_cast<Features>(!is_name(SWA_FAST_EXPANSION(macro))) << bit++;
  SWA_FAST_FOR_EACH_FEATURE(SWA_FAST_REQUIRE)
#undef SWA_FAST_REQUIRE
  return bit < 64 ? all : throw "too many features for one word";
}

}  // namespace

constexpr Features kRequired = required();

}  // namespace swa_fast::cpu_floor
