#include "cpu/isa.h"

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/error.h"

namespace swa_fast::cpu {
namespace {

#if defined(__x86_64__)
bool cpu_has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// __builtin_cpu_supports also asks whether the operating system saves the wider registers.
bool cpu_has_avx2() { return __builtin_cpu_supports("avx2") && cpu_has_f16c(); }

bool cpu_has_avx512() {
  return cpu_has_avx2() && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

// Weakest first.
std::vector<const KernelTable*> runnable_kernels() {
  std::vector<const KernelTable*> tables = {&baseline_kernels()};
#if defined(__x86_64__)
  if (cpu_has_avx2()) tables.push_back(&avx2_kernels());
  if (cpu_has_avx512()) tables.push_back(&avx512_kernels());
#endif
  return tables;
}

const KernelTable& choose_kernels() {
  const char* forced = std::getenv("SWA_FAST_ISA");
  if (forced == nullptr || *forced == '\0') return *runnable_kernels().back();
  if (const KernelTable* table = kernels_by_name(forced)) return *table;
  std::string names;
  for (const std::string& isa : runnable_isas()) names += (names.empty() ? "" : ", ") + isa;
  throw_runtime_error(
      "the environment variable SWA_FAST_ISA must name an instruction set that "
      "was built and that this CPU can run (" +
      names + "). Received: " + forced);
}

}  // namespace

const KernelTable& active_kernels() {
  static const KernelTable& table = choose_kernels();
  return table;
}

std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
  for (const KernelTable* table : runnable_kernels()) names.emplace_back(table->isa);
  return names;
}

const KernelTable* kernels_by_name(const std::string& isa) {
  for (const KernelTable* table : runnable_kernels()) {
    if (isa == table->isa) return table;
  }
  return nullptr;
}

}  // namespace swa_fast::cpu
