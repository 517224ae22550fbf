// Compiled with the flags of everything else, and holds no code: only what they amount to.
#include "cpu_floor/features.h"

namespace swa_fast::cpu_floor {

// A macro that is not defined expands to its own name; one that is, to a number or to nothing.
#define SWA_FAST_EXPANSION(macro) #macro
#define SWA_FAST_IS_REQUIRED(name, macro, is_offered) SWA_FAST_EXPANSION(macro)[0] != '_',
constexpr bool kRequired[] = {SWA_FAST_FOR_EACH_FEATURE(SWA_FAST_IS_REQUIRED) false};
#undef SWA_FAST_IS_REQUIRED

}  // namespace swa_fast::cpu_floor
