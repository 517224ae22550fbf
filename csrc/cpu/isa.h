// Chooses the instruction set at run time.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernel.h"

namespace swa_fast::cpu {

// The kernels in use: the best the CPU and the operating system can run, or the one that the
// environment variable SWA_FAST_ISA names. Decided once, at the first call. Throws RuntimeError if
// SWA_FAST_ISA names none that was built or that this CPU can run.
const KernelTable& active_kernels();

// Names of the built instruction sets that this CPU can run, weakest first.
std::vector<std::string> runnable_isas();

// Kernels by name, or nullptr if not built or not runnable here.
const KernelTable* kernels_by_name(const std::string& isa);

}  // namespace swa_fast::cpu
