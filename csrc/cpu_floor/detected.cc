// Compiled for the architecture's first model whatever the flags: see CMakeLists.txt.
#include "cpu_floor/features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace swa_fast::cpu_floor {

#if defined(__x86_64__)
namespace {

enum Register { kEax, kEbx, kEcx, kEdx };

// Bits of XCR0: the registers that the system saves when it switches between threads.
constexpr unsigned kYmm = 0x6;
constexpr unsigned kZmm = 0xe6;

unsigned saved_registers() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kOsxsave = 1u << 27;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kOsxsave) == 0) return 0;
  __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
}

bool has(unsigned leaf, unsigned subleaf, Register which, int bit, unsigned saved,
         unsigned needed) {
  unsigned registers[4] = {0, 0, 0, 0};
  if (__get_cpuid_count(leaf, subleaf, &registers[kEax], &registers[kEbx], &registers[kEcx],
                        &registers[kEdx]) == 0) {
    return false;
  }
  return (registers[which] >> bit & 1) != 0 && (saved & needed) == needed;
}

}  // namespace
#endif

Features detected() {
  Features all = 0;
  [[maybe_unused]] int bit = 0;
#if defined(__x86_64__)
  const unsigned saved = saved_registers();
#define SWA_FAST_DETECT(name, macro, leaf, subleaf, which, position, needed) \
  all |= static_cast<Features>(has(leaf, subleaf, which, position, saved, needed)) << bit++;
#elif defined(__aarch64__) && defined(__linux__)
#define SWA_FAST_DETECT(name, macro, entry, position) \
  all |= static_cast<Features>(getauxval(entry) >> position & 1) << bit++;
#else
#define SWA_FAST_DETECT(...)
#endif
  SWA_FAST_FOR_EACH_FEATURE(SWA_FAST_DETECT)
#undef SWA_FAST_DETECT
  return all;
}

const char* feature_name(int i) {
#define SWA_FAST_NAME(name, ...) name,
  static const char* const names[] = {SWA_FAST_FOR_EACH_FEATURE(SWA_FAST_NAME) nullptr};
#undef SWA_FAST_NAME
  constexpr int kCount = static_cast<int>(sizeof(names) / sizeof(names[0]));
  return i < kCount ? names[i] : nullptr;
}

}  // namespace swa_fast::cpu_floor
