// Choice of the instruction set: the best by default, or the one that SWA_FAST_ISA names.
#include "cpu/isa.h"

#include <cstdlib>
#include <set>

#include "check.h"
#include "core/error.h"
#include "subprocess.h"

namespace cpu = swa_fast::cpu;

namespace {

// The choice is made once in a process: each trial has its own.
template <class Body>
std::string with_isa(const char* isa, const Body& body) {
  return in_forked_child([&] {
    if (isa == nullptr) {
      unsetenv("SWA_FAST_ISA");
    } else {
      setenv("SWA_FAST_ISA", isa, 1);
    }
    return body();
  });
}

}  // namespace

TEST(baseline_is_always_there_and_first) {
  const std::vector<std::string> isas = cpu::runnable_isas();
  CHECK(!isas.empty() && isas[0] == "baseline");
  CHECK_EQ(std::set<std::string>(isas.begin(), isas.end()).size(), isas.size());
  for (const std::string& isa : isas) {
    const cpu::KernelTable* const table = cpu::kernels_by_name(isa);
    if (CHECK(table != nullptr)) CHECK_EQ(std::string(table->isa), isa);
  }
  for (const char* const other : {"", "AVX2", "sse9", "baseline "}) {
    CHECK(cpu::kernels_by_name(other) == nullptr);
  }
}

#if defined(__x86_64__)
TEST(runnable_isas_are_what_the_cpu_has) {
  const bool avx2 = __builtin_cpu_supports("avx2");
  const bool avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  CHECK_EQ(cpu::kernels_by_name("avx2") != nullptr, avx2);
  CHECK_EQ(cpu::kernels_by_name("avx512") != nullptr, avx512);
}
#endif

TEST(no_entry_of_a_table_is_missing) {
  for (const std::string& isa : cpu::runnable_isas()) {
    const cpu::KernelTable& table = *cpu::kernels_by_name(isa);
    std::set<cpu::RangeKernel> distinct = {table.copy_bytes, table.swap_bytes};
    std::set<cpu::SumKernel> sums;
    for (int dst = 0; dst < swa_fast::kNumStorageTypes; ++dst) {
      for (int src = 0; src < swa_fast::kNumStorageTypes; ++src) {
        distinct.insert(table.lerp[dst][src]);
        distinct.insert(table.tfa_mean[dst][src]);
        distinct.insert(table.cast[dst][src]);
      }
      sums.insert(std::begin(table.start_sums[dst]), std::end(table.start_sums[dst]));
      sums.insert(std::begin(table.add_to_sums[dst]), std::end(table.add_to_sums[dst]));
    }
    constexpr size_t kTypes = swa_fast::kNumStorageTypes;
    CHECK_EQ(distinct.count(nullptr) + sums.count(nullptr), 0u);
    CHECK_EQ(distinct.size(), 2 + 3 * kTypes * kTypes);
    CHECK_EQ(sums.size(), 2 * kTypes * cpu::kMostTerms);
  }
}

TEST(the_best_is_the_default) {
  const std::string best = cpu::runnable_isas().back();
  for (const char* const unset : {static_cast<const char*>(nullptr), ""}) {
    CHECK_EQ(with_isa(unset, [&] { return cpu::active_kernels().isa == best; }), "ok");
  }
}

TEST(the_environment_forces_each) {
  for (const std::string& isa : cpu::runnable_isas()) {
    CHECK_EQ(with_isa(isa.c_str(), [&] { return cpu::active_kernels().isa == isa; }), "ok");
  }
}

TEST(the_choice_is_made_once) {
  CHECK_EQ(with_isa("baseline",
                    [] {
                      const cpu::KernelTable& first = cpu::active_kernels();
                      setenv("SWA_FAST_ISA", "nonsense", 1);
                      return &cpu::active_kernels() == &first;
                    }),
           "ok");
}

TEST(an_impossible_name_is_refused_with_the_possible_ones) {
  CHECK_EQ(with_isa("sse9",
                    [] {
                      try {
                        cpu::active_kernels();
                      } catch (const swa_fast::Error& error) {
                        const std::string message = error.what();
                        bool named = message.find("SWA_FAST_ISA") != std::string::npos &&
                                     message.find("Received: sse9") != std::string::npos;
                        for (const std::string& isa : cpu::runnable_isas()) {
                          named = named && message.find(isa) != std::string::npos;
                        }
                        return named && error.kind() == swa_fast::ErrorKind::kRuntime;
                      }
                      return false;
                    }),
           "ok");
}
