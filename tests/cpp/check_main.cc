#include <cstdio>
#include <cstdlib>

#include "check.h"
#include "cpu/isa.h"

// Exit status 77, which ctest reports as skipped, where SWA_FAST_ISA names what cannot run here.
int main(int argc, char** argv) {
  const char* const isa = std::getenv("SWA_FAST_ISA");
  if (isa != nullptr && swa_fast::cpu::kernels_by_name(isa) == nullptr) {
    std::printf("skipped: this CPU cannot run %s\n", isa);
    return 77;
  }
  return check::run(argc, argv);
}
