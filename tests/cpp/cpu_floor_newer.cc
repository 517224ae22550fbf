// csrc/cpu_floor/required.cc, compiled for a newer CPU under another name. Holds no code.
#include "cpu_floor/features.h"

namespace swa_fast::cpu_floor_newer {
extern const bool kRequired[];
}

#define cpu_floor cpu_floor_newer
#include "../../csrc/cpu_floor/required.cc"
#undef cpu_floor
